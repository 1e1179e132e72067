"""Secrets travel by name, are revealed in the host, and get into nothing that leaves it."""

from __future__ import annotations

import json
import logging
import re
import threading
from typing import Annotated

import numpy as np
import pytest
from pydantic import AfterValidator, BaseModel, TypeAdapter

import podium
from podium import Sequence, Step, Workflow
from podium.actors.secrecy import Secrecy
from podium.cluster.config import load_settings
from podium.errors import FixTheCall, InvalidInput, InvalidSetting, SpawnFailed
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
    assert "it is [secret db]" in caplog.text and TEXT not in caplog.text


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


def test_a_driver_reveals_nothing_and_a_secret_shows_its_name(monkeypatch):
    monkeypatch.setattr("podium.protocols.secret._OF_PROCESS", [])
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


LONG = "sk-live-0123456789abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ-0123456789-end"
PEM = "-----BEGIN KEY-----\nMIIabcdefghijkl\\n\n-----END KEY-----"


class Strict(BaseModel):
    token: int


class Trimmed(BaseModel):
    t: Annotated[str, AfterValidator(lambda text: text + ".")]


def cut_by_pydantic():
    Strict(token=podium.Secret("long").reveal())


def cut_at_the_end():
    raise RuntimeError("y" * (64_000 - 20) + podium.Secret("long").reveal())


def cut_at_the_beginning():
    raise RuntimeError(podium.Secret("long").reveal() + "y" * 7940)


def a_long_one_that_begins_with_a_short_one():
    podium.Secret("short").reveal()
    raise RuntimeError(podium.Secret("long").reveal())


def escaped():
    raise KeyError(podium.Secret("pem").reveal())


def shown():
    raise RuntimeError(f"{podium.Secret('pem').reveal()!r} {json.dumps([podium.Secret('pem').reveal()])}")


def as_a_number():
    return {"pin": [podium.Secret("pin", int).reveal()]}


def a_part():
    raise RuntimeError(podium.Secret("json", dict).reveal()["password"])


def in_an_array():
    return np.array([podium.Secret("long").reveal()])


def as_a_key():
    return {(podium.Secret("long").reveal(), 1): 1}


def in_a_thread_of_its_own():
    found = []
    thread = threading.Thread(target=lambda: found.append(podium.Secret("long").reveal()))
    thread.start()
    thread.join()
    raise RuntimeError(found[0])


def changed_by_a_validator() -> Trimmed:
    return Trimmed(t=podium.Secret("long").reveal())


TEXTS = {"long": LONG, "short": "sk-live", "pem": PEM, "pin": "48151623", "json": '{"password": "hunter2hunter2"}'}


@pytest.mark.parametrize(
    "step",
    [
        cut_by_pydantic,
        cut_at_the_end,
        cut_at_the_beginning,
        a_long_one_that_begins_with_a_short_one,
        escaped,
        shown,
        as_a_number,
        a_part,
        in_an_array,
        as_a_key,
        in_a_thread_of_its_own,
        changed_by_a_validator,
    ],
    ids=lambda step: step.__name__,
)
def test_no_piece_of_a_secret_is_on_record(tmp_path, step):
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)

    async def work(engine):
        task = await engine.submit(Workflow("w", podium.protocol(step)), None)
        await task.wait()
        record = await task.read_record()
        return record, to_json([record.to_json(), [event.value async for event in task.events()]])

    record, said = Simulation(secrets={name: f"file:{tmp_path / name}" for name in TEXTS}).run(work)
    assert record.failure is not None
    for secret in [*TEXTS.values(), "hunter2hunter2", "MIIabcdefghijkl"]:
        pieces = {secret[at : at + 8] for at in range(len(secret) - 7)}
        assert not [piece for piece in pieces if piece in said], said[:600]


def test_an_error_of_a_start_has_no_secret_in_it(monkeypatch):
    monkeypatch.setenv("TEST_PASSWORD", TEXT)

    class Starts(podium.Protocol):
        async def start(self):
            raise ValueError(f"login with {podium.Secret('db').reveal()} failed")

        async def run(self, value):
            return value

    async def work(engine):
        with pytest.raises(SpawnFailed, match=r"ValueError|login with \[secret db\] failed") as caught:
            await engine.deploy(Workflow("w", Starts))
        return str(caught.value)

    assert TEXT not in Simulation(secrets={"db": "env:TEST_PASSWORD"}).run(work)


def test_a_secret_is_read_as_its_type():
    import datetime
    from pathlib import Path

    for kind, text, value in [
        (Path, "/a", Path("/a")),
        (datetime.date, "2026-01-02", datetime.date(2026, 1, 2)),
        (list[int], "[1]", [1]),
    ]:
        assert podium.Secret("x", kind)._read(text) == value
