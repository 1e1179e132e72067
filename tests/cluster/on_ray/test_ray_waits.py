"""Waiting on Ray: approvals and sleeps outlive the kill of everything, and cost no process meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

pytestmark = pytest.mark.ray

ARTICLES = textwrap.dedent(
    """
    import os, time, podium
    from podium import Parallel, Sequence, Sleep, Step, Wait, Workflow

    def note(what):
        with open(os.environ["WITNESS"], "a") as file:
            file.write(f"{what}\\n")

    @podium.protocol
    def draft(input):
        note(f"draft {input['title']}")
        return {"title": input["title"], "text": "..."}

    @podium.protocol
    def publish(input):
        note(f"publish {input['title']}")
        return f"{input['title']} by {', '.join(answer['by'] for answer in input['answers'])}"

    @podium.protocol
    def awake(input):
        return time.time() - input["until"]

    approval = Wait(
        "approval", schema=bool, show="outputs.draft", who=["ann", "ben", "cat"], need=2, signed=True,
        refusal="!answer", on_refusal="go_on",
    )
    article = Workflow(
        "article",
        Sequence(draft, approval, Step(publish, with_={"title": "outputs.draft.title", "answers": "input"})),
    )
    nap = Workflow("nap", Sequence(Sleep(until="input.until"), awake))
    """
)
FIRST = textwrap.dedent(
    """
    import sys, time, podium
    from articles import article, nap

    engine = podium.connect(data="data", num_cpus=2)
    articles = engine.submit_many(article, [{"title": title} for title in ("Ants", "Bees")])
    engine.submit(nap, {"until": time.time() + 4})
    engine.submit(nap, {"until": 0}, delay_s=4)
    while len(engine.waits()) < 2:
        time.sleep(0.05)
    engine.answer(articles[0].id, "approval", True, by="ann")
    print("waiting", flush=True)
    sys.stdin.read()
    """
)
SECOND = textwrap.dedent(
    """
    import json, podium

    with podium.connect(data="data", num_cpus=2) as engine:
        articles = sorted(engine.tasks(workflow="article"), key=lambda task: task.read_record().input["title"])
        for task, name in zip(articles, ("ben", "cat")):
            (wait,) = task.waits()
            engine.answer(task.id, "approval", name != "cat", by=name, digest=wait.digest)
        try:
            engine.answer(articles[0].id, "approval", True, by="cat")
        except podium.errors.AnswerRefused as error:
            refused = error.reason
        done = articles[0].result(timeout_s=60)
        for name in ("ann", "ben"):
            engine.answer(articles[1].id, "approval", True, by=name)
        late = [task.plain_result(timeout_s=60) for task in engine.tasks(workflow="nap")]
        print(json.dumps([done, refused, articles[1].result(timeout_s=60), late]))
    """
)


def test_approvals_and_sleeps_outlive_the_kill_of_everything(tmp_path):
    (tmp_path / "articles.py").write_text(ARTICLES)
    witness = tmp_path / "witness.txt"
    environment = {**os.environ, "WITNESS": str(witness)}
    started = time.time()
    driver = subprocess.Popen(
        [sys.executable, "-c", FIRST],
        cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert driver.stdout.readline() == b"waiting\n"
    for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
        process.kill()
    driver.wait()
    again = subprocess.run(
        [sys.executable, "-c", SECOND], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert again.returncode == 0, again.stderr
    ants, refused, bees, (held, napped) = json.loads(again.stdout)
    assert (ants, refused, bees) == ("Ants by ann, ben", "answered", "Bees by ann, ben")
    assert napped >= 0 and held >= started + 4, "nothing is early"
    ran = sorted(witness.read_text().split("\n")[:-1])
    assert ran == ["draft Ants", "draft Bees", "publish Ants", "publish Bees"], "each step ran once"
