"""Secrets travel by name, are revealed in the host, and get into nothing that leaves it."""

from __future__ import annotations

import json
import logging
import re

import pytest
from pydantic import BaseModel, TypeAdapter

import podium
from podium import Sequence, Step, Workflow
from podium.actors.secrecy import Secrecy
from podium.cluster.config import load_settings
from podium.errors import FixTheCall, InvalidInput, InvalidSetting
from podium.protocols.binding import schemas_of
from podium.protocols.json_forms import to_json
from podium.testing import Simulation

TEXT = "correct horse battery"


class Query(BaseModel):
    text: str
    password: podium.Secret[str]
    port: podium.Secret[int] = podium.Secret("port", int)


@podium.protocol
async def looks_up(query: Query) -> dict:
    return {"length": len(query.password.reveal()), "port": query.port.reveal() + 1}


class Asked(BaseModel):
    length: int
    again: Query


@podium.protocol
def in_a_thread(query: Query) -> Asked:
    return Asked(length=len(query.password.reveal()), again=query)


@podium.protocol
def raises(query: Query) -> None:
    raise RuntimeError(f"cannot log in with {query.password.reveal()}")


@podium.protocol
def returns(query: Query) -> dict:
    return {"rows": [f"<{query.password.reveal()}>"]}


@podium.protocol
def emits(ctx, query: Query) -> None:
    ctx.emit({query.password.reveal(): 1})


@podium.protocol
def logs(ctx, query: Query) -> int:
    try:
        raise ValueError(query.password.reveal())
    except ValueError:
        ctx.log.exception("it is %s", query.password.reveal())
    return 1


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a workflow over a query, and return its task and all that is on record of it."""
    monkeypatch.setenv("TEST_PASSWORD", TEXT)
    (tmp_path / "port").write_text("5432\n")
    secrets = {"db": "env:TEST_PASSWORD", "port": f"file:{tmp_path / 'port'}", "gone": "env:TEST_NOT_SET"}

    def run(root, input):
        async def work(engine):
            task = await engine.submit(Workflow("w", root), input)
            await task.wait()
            record = await task.read_record()
            events = [event async for event in task.events()]
            said = to_json([record.to_json(), [[event.kind, event.value] for event in events]])
            assert TEXT not in said
            return record, said

        return Simulation(secrets=secrets).run(work)

    return run


QUERY = Query(text="a", password=podium.Secret("db"))


def test_a_secret_is_revealed_in_the_host_and_only_its_name_is_on_record(run):
    record, said = run(Sequence(in_a_thread, Step(looks_up, with_="outputs.in_a_thread.again")), QUERY)
    assert record.result == {"length": len(TEXT), "port": 5433}
    assert '"$type": "podium.Secret"' in said and '"name": "db"' in said


def test_clients_of_json_name_it_too(run):
    assert run(looks_up, {"text": "a", "password": {"$secret": "db"}})[0].result["length"] == len(TEXT)
    with pytest.raises(InvalidInput, match=r'a secret is wanted: podium.Secret\("name"\), or {"\$secret": "name"}'):
        run(looks_up, {"text": "a", "password": TEXT})
    schema = schemas_of(looks_up)[0]["properties"]["password"]
    assert json.dumps(schema).count("$secret") >= 1


@pytest.mark.parametrize(
    ("root", "says"),
    [
        (raises, r"cannot log in with \[secret db\]"),
        (returns, r"output\.rows\[0\]: the secret 'db' stands in it; pass the secret on by name"),
        (emits, r"the secret 'db' stands in it"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_it_gets_into_no_error_output_or_chunk(run, root, says):
    record, _ = run(root, QUERY)
    assert record.failure is not None
    assert re.search(says, record.failure.message), record.failure.message
    assert TEXT not in record.failure.traceback


def test_it_gets_into_no_log(run, caplog):
    with caplog.at_level(logging.DEBUG):
        assert run(logs, QUERY)[0].result == 1
    assert "it is [secret db]" in caplog.text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope", "the setting `secrets` names no 'nope'; it names db, gone, port"),
        ("gone", "secret 'gone' is not there: env:TEST_NOT_SET: KeyError"),
    ],
)
def test_what_is_not_there_says_where_it_was_looked_for(run, name, says):
    record, _ = run(looks_up, Query(text="a", password=podium.Secret(name)))
    assert says in record.failure.message


def test_a_text_of_another_type_is_not_told(run):
    record, _ = run(looks_up, Query(text="a", password=podium.Secret("db"), port=podium.Secret("db")))
    assert record.failure.message == "secret 'db' cannot be read as <class 'int'>"


def test_a_driver_reveals_nothing_and_a_secret_shows_its_name():
    secret = podium.Secret("db")
    with pytest.raises(FixTheCall, match="only the code of a protocol reveals secrets"):
        secret.reveal()
    assert repr(secret) == str(secret) == "Secret('db')"
    assert len({secret, podium.Secret("db"), podium.Secret("other")}) == 2
    for name in ("", "a b", 3, "x" * 65):
        with pytest.raises(InvalidInput, match="is no name of a secret"):
            podium.Secret(name)
    with pytest.raises(ValueError, match="is no name of a secret"):
        TypeAdapter(podium.Secret[str]).validate_python({"$secret": "a b"})


def test_bytes_and_structures_are_read():
    secrecy = Secrecy({"b": "file:/b", "j": "file:/j"}, {"file:/b": "raw", "file:/j": '{"a": [1]}'}.__getitem__)
    assert podium.Secret("b", bytes)._read(secrecy.reveal("b")) == b"raw"
    assert podium.Secret("j", dict[str, list[int]])._read(secrecy.reveal("j")) == {"a": [1]}


def test_short_texts_are_not_looked_for():
    secrecy = Secrecy({"pin": "env:PIN"}, lambda _: "123")
    secrecy.reveal("pin")
    assert secrecy.check("0123", "output") == "0123" and secrecy.black_out("0123") == "0123"


def test_the_setting_takes_places_and_no_secrets():
    for secrets in ({"db": TEXT}, {"db": "file:relative"}, {"a b": "env:A"}, {"db": "env:"}):
        with pytest.raises(InvalidSetting, match="secrets") as caught:
            load_settings(secrets=secrets)
        assert TEXT not in str(caught.value)
