"""Run by CI with the wheel alone: the whole path once, in process, from a folder without the sources."""

import podium


@podium.protocol
def double(input: int) -> int:
    return 2 * input


if __name__ == "__main__":
    workflow = podium.Workflow("smoke", podium.Sequence(double, double))
    with podium.connect(cluster="inprocess", data="smoke-data") as engine:
        assert engine.submit(workflow, 3).result(timeout_s=30) == 12
    print("smoke: ok")
