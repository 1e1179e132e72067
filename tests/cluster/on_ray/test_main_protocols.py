"""Protocols of a driver's `__main__`, which no other process can import: they travel as pickles."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

DRIVER = textwrap.dedent(
    """
    from __future__ import annotations
    import sys, typing, podium
    from pathlib import Path
    from pydantic import BaseModel
    from ray import cloudpickle
    from podium.cluster.client.definition import code_of

    if typing.TYPE_CHECKING:
        from podium import Context

    class Order(BaseModel):
        parts: list[Part]

    class Part(BaseModel):
        price: float

    class Total(BaseModel):
        price: float

    @podium.protocol
    async def add(ctx: podium.Context, input: Order) -> Total:
        return {"price": sum(part.price for part in input.parts)}

    class Split(podium.Protocol):
        def run(self, ctx: Context, input: typing.Annotated[Total, "of all"]) -> list[Total]:
            return [input, input]

    workflow = podium.Workflow("orders", podium.Sequence(add, Split))
    Path(sys.argv[1]).write_bytes(cloudpickle.dumps(code_of(workflow, cloudpickle.dumps)))
    """
)

HOST = textwrap.dedent(
    """
    import json, pickle, sys
    from pathlib import Path
    from podium.protocols.binding import Binding

    code = {ref: pickle.loads(each) for ref, each in pickle.loads(Path(sys.argv[1]).read_bytes()).items()}
    add, split = Binding(code["__main__:add"]), Binding(code["__main__:Split"])
    order, total = add.read_input({"parts": [{"price": "2"}]}), split.read_input({"price": 2})
    outputs = [add.plain_output({"price": 3}), split.plain_output([{"price": 4}])]
    print(json.dumps([add.takes_ctx, split.takes_ctx, order.parts[0].price, total.price, *outputs]))
    """
)

UNDEFINED = "import podium\n@podium.protocol\ndef add(input: 'Missing'): ...\n"
DEPLOY = "from podium.cluster.client.definition import code_of\ncode_of(podium.Workflow('w', add), bytes)"


def run(program: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.ray
def test_hints_that_only_annotations_name_travel_with_the_protocol(tmp_path):
    """They were left behind under `from __future__ import annotations`: no process of it could start."""
    driver = run(DRIVER, tmp_path / "code")
    assert driver.returncode == 0, driver.stderr
    host = run(HOST, tmp_path / "code")
    assert host.returncode == 0, host.stderr
    assert json.loads(host.stdout) == [True, True, 2.0, 2.0, {"price": 3.0}, [{"price": 4.0}]]


def test_a_hint_that_nothing_defines_is_told_where_the_protocol_is(tmp_path):
    told = run(UNDEFINED + DEPLOY).stderr
    assert "protocol __main__:add: a type hint of run cannot be resolved: name 'Missing' is not defined" in told
