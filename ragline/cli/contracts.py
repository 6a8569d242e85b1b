"""`ragline contracts`: what travels on the bus, in the words of other tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ragline.cli.session import JsonOption, Session
from ragline.contracts.asyncapi import asyncapi, event_schema
from ragline.errors import ConfigurationError
from ragline.local.topics import topic_specs
from ragline.settings import BusSettings

app = typer.Typer(help="The contracts of the bus, for other tools.", no_args_is_help=True)


@app.command("asyncapi")
def show_asyncapi(as_json: JsonOption = False) -> None:
    """Print every channel, message and operation as AsyncAPI 3.0 (YAML)."""
    if as_json:
        Session(as_json).emit(asyncapi())
    else:
        _print_yaml("asyncapi", [asyncapi()])


@app.command("schema")
def show_schema(
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Such as ragline.document.changed.v1.")],
    as_json: JsonOption = False,
) -> None:
    """Print the JSON Schema of a topic's messages; --json puts it on one line."""
    schema = event_schema(topic)
    if as_json:
        Session(as_json).emit(schema)
    else:
        sys.stdout.write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")


@app.command("topics")
def show_topics(
    cluster: Annotated[str, typer.Option(help="The Kafka cluster's name in Strimzi.")] = "ragline",
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of a topic that is shared out by key.")
    ] = BusSettings().partitions,
    replicas: Annotated[int, typer.Option(min=1, help="Copies of each partition.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Print every topic as a Strimzi KafkaTopic (YAML), dead letters included."""
    in_sync = {"min.insync.replicas": str(max(1, replicas - 1))}
    topics = [
        {
            "apiVersion": "kafka.strimzi.io/v1",
            "kind": "KafkaTopic",
            "metadata": {"name": topic, "labels": {"strimzi.io/cluster": cluster}},
            "spec": {
                "partitions": spec.partitions,
                "replicas": replicas,
                "config": spec.configuration() | in_sync,
            },
        }
        for topic, spec in topic_specs(partitions).items()
    ]
    if as_json:
        Session(as_json).emit({"apiVersion": "v1", "kind": "List", "items": topics})
    else:
        _print_yaml("topics", topics)


def _print_yaml(command: str, documents: Sequence[dict[str, Any]]) -> None:
    try:
        import yaml
    except ImportError as error:
        raise ConfigurationError("YAML needs the package pyyaml: pip install pyyaml, or use --json") from error
    sys.stdout.write(f"# Made by `ragline contracts {command}`; do not edit.\n")
    yaml.safe_dump_all(documents, sys.stdout, sort_keys=False, allow_unicode=True, width=110)
