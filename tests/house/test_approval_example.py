"""examples/approval: what its comments say holds."""

from __future__ import annotations

import re
import sys

import pytest

from podium import load_workflow
from podium.errors import AnswerRefused
from podium.testing import Simulation
from tests.support import ROOT
from tests.support.waits import asked


@pytest.fixture
def article(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.chdir(tmp_path)
    yield load_workflow(ROOT / "examples/approval/article.yaml")
    for name in [name for name in sys.modules if name.partition(".")[0] == "approval"]:
        del sys.modules[name]


def decided(article, *answers, user="eve"):
    """The result of an article after these answers of (who, what), with a kill of everything before each."""

    async def work(engine):
        task = await asked(engine, article, {"title": "Ants", "file": "articles.md"}, user=user)
        for who, what in answers:
            sim.kill_all()
            await engine.answer(task.id, "approval", what, by=who)
        return await task.result()

    sim = Simulation()
    return sim.run(work, within_s=10**7)


def test_two_of_three_publish_it_once(article, tmp_path):
    assert decided(article, ("ann", True), ("cat", True)) == "published in articles.md, approved by ann and cat"
    assert (tmp_path / "articles.md").read_text().count("# Ants") == 1


def test_one_refusal_withdraws_it(article, tmp_path):
    assert decided(article, ("ann", True), ("ben", False)) == "'Ants' is withdrawn: ben refused 'approval'"
    assert not (tmp_path / "articles.md").exists()


def test_a_week_without_an_answer_withdraws_it(article):
    assert "nobody answered 'approval' within 604800 s" in decided(article, ("ann", True))


def test_its_author_and_strangers_have_no_say(article):
    for user, who in (("ann", "ann"), ("eve", "dan")):
        with pytest.raises(AnswerRefused) as refused:
            decided(article, (who, True), user=user)
        assert refused.value.reason == "not_allowed"


def test_the_commands_in_its_comments_are_those_there_are(article):
    text = (ROOT / "examples/approval/article.yaml").read_text()
    from typer.main import get_command

    from podium.cluster.gateways.cli.main import app

    assert set(re.findall(r"#   podium (\w+)", text)) <= set(get_command(app).commands)
