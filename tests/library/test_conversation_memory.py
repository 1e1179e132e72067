"""The memory of conversations: what is kept, for whom, and for how long."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest
from hypothesis import given, settings

from podium.protocols.library.memory import DAY_S, Memory, Turn
from tests.support.texts import any_text

NOW = 1_800_000_000.0
INJECTIONS = ['" OR 1=1 --', "NEAR(", "user:ben", 'owner : "x"', ") OR (apple", "} : (apple", "*", "NOT apple", "'; --"]


@pytest.fixture
def database(tmp_path):
    return tmp_path / "state" / "memory.db"


@pytest.fixture
def memory(database):
    with closing(Memory(database)) as memory:
        yield memory


def add(memory: Memory, turn_id: str, question: str = "q", user: str = "ann", session: str = "s", at: float = NOW):
    memory.add(user, session, turn_id, question, f"answer to {question}", at)


def ids(turns: list[Turn]) -> list[str]:
    return [turn.turn_id for turn in turns]


def test_the_last_turns_come_with_the_newest_last(memory):
    for number in range(5):
        add(memory, f"t{number}", at=NOW + number)
    assert ids(memory.recent("ann", "s", 3)) == ["t2", "t3", "t4"]
    assert memory.recent("ann", "s", 1) == [Turn("t4", "q", "answer to q", NOW + 4)]


def test_turns_are_in_order_of_time_not_of_arrival(memory):
    add(memory, "late", at=NOW + 1)
    add(memory, "early", at=NOW)
    assert ids(memory.recent("ann", "s", 9)) == ["early", "late"]


def test_a_turn_that_is_added_again_stays_as_it_was(memory):
    add(memory, "t", "apple")
    add(memory, "t", "bread")
    assert [turn.question for turn in memory.recent("ann", "s", 9)] == ["apple"]
    assert memory.search("ann", "s", "bread", 9) == []


def test_the_same_turn_id_of_two_users_is_two_turns(memory):
    add(memory, "t", "apple", user="ann")
    add(memory, "t", "bread", user="ben")
    assert [memory.recent(user, "s", 9)[0].question for user in ("ann", "ben")] == ["apple", "bread"]


@pytest.mark.parametrize("other", [("ben", "s"), ("ann", "s2"), ("an", "ns"), ("", "anns"), ("anns", ""), ("ANN", "s")])
def test_nobody_sees_another_users_or_sessions_turns(memory, other):
    add(memory, "mine", "my apple")
    add(memory, "theirs", "their apple", user=other[0], session=other[1])
    for user, session, own in [("ann", "s", "mine"), (*other, "theirs")]:
        assert ids(memory.recent(user, session, 9)) == [own]
        assert ids(memory.search(user, session, "my their apple", 9)) == [own]


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_question_leads_into_another_users_turns(memory, text):
    add(memory, "mine", f"something {text}")
    add(memory, "theirs", f"apple ben x {text}", user="ben")
    assert set(ids(memory.search("ann", "s", text, 9))) <= {"mine"}


def test_a_search_finds_questions_and_answers_in_other_forms_the_best_first(memory):
    memory.add("ann", "s", "1", "how is the journal fenced?", "by epochs", NOW)
    memory.add("ann", "s", "2", "what about fences in the garden?", "wood", NOW)
    memory.add("ann", "s", "3", "and lunch?", "soup", NOW)
    assert ids(memory.search("ann", "s", "fencing of a journal", 9)) == ["1", "2"]
    assert ids(memory.search("ann", "s", "epoch", 9)) == ["1"]
    assert ids(memory.search("ann", "s", "fencing of a journal", 1)) == ["1"]


def test_forgetting_takes_one_session_and_says_how_many_turns_it_had(memory):
    add(memory, "1", "apple")
    add(memory, "2", "apple")
    add(memory, "3", "apple", session="other")
    assert memory.forget("ann", "s") == 2
    assert memory.recent("ann", "s", 9) == memory.search("ann", "s", "apple", 9) == []
    assert ids(memory.search("ann", "other", "apple", 9)) == ["3"]
    assert memory.forget("ann", "s") == 0


def test_what_was_forgotten_is_not_in_the_file_any_more(memory, database):
    add(memory, "1", "xylophone")
    add(memory, "2", "piano", session="other")
    memory.forget("ann", "s")
    content = b"".join(path.read_bytes() for path in database.parent.iterdir())
    assert b"xylophone" not in content
    assert b"xylophon" not in content
    assert b"piano" in content


def test_a_session_keeps_its_newest_turns_only(database):
    with closing(Memory(database, keep_turns=3)) as memory:
        for number in range(5):
            add(memory, f"t{number}", f"word{number}", at=NOW + number)
        add(memory, "other", session="other")
        assert ids(memory.recent("ann", "s", 9)) == ["t2", "t3", "t4"]
        assert memory.search("ann", "s", "word0", 9) == []
        assert ids(memory.recent("ann", "other", 9)) == ["other"]


def test_turns_past_their_age_are_forgotten_whoevers_they_are(memory):
    add(memory, "old", "apple", user="ben", at=NOW)
    add(memory, "new", at=NOW + 30 * DAY_S)
    assert ids(memory.recent("ben", "s", 9)) == ["old"]
    add(memory, "newer", at=NOW + 30 * DAY_S + 1)
    assert memory.recent("ben", "s", 9) == memory.search("ben", "s", "apple", 9) == []


def test_turns_are_there_after_opening_again(database):
    with closing(Memory(database)) as memory:
        add(memory, "t", "apple")
    with closing(Memory(database)) as memory:
        assert ids(memory.search("ann", "s", "apple", 9)) == ["t"]


def test_two_memories_of_one_file_see_each_other(database, memory):
    with closing(Memory(database)) as second:
        add(memory, "1", at=NOW)
        add(second, "2", at=NOW + 1)
        assert ids(memory.recent("ann", "s", 9)) == ids(second.recent("ann", "s", 9)) == ["1", "2"]


def test_calls_from_several_threads_lose_nothing(memory):
    def add_some(name: str) -> None:
        for number in range(20):
            add(memory, f"{name}{number}")

    threads = [threading.Thread(target=add_some, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(memory.recent("ann", "s", 100)) == 60


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    with closing(Memory(tmp_path_factory.mktemp("memory") / "memory.db")) as memory:
        add(memory, "mine", "some words")
        add(memory, "theirs", "some words", user="ben")
        yield memory


@given(any_text(INJECTIONS))
def test_no_text_makes_a_search_fail_or_shows_anothers_turn(kept, text):
    assert ids(kept.search("ann", "s", f"words {text}", 9)) == ["mine"]
    kept.search("ann", "s", text, 9)


@settings(max_examples=50)
@given(question=any_text(INJECTIONS), answer=any_text(INJECTIONS))
def test_any_text_can_be_kept(kept, question, answer):
    kept.forget("cat", "s")
    kept.add("cat", "s", "t", question, answer, NOW)
    as_utf8 = [text.encode(errors="replace").decode() for text in (question, answer)]
    assert kept.recent("cat", "s", 1) == [Turn("t", *as_utf8, NOW)]


@pytest.mark.parametrize("limits", [{"keep_turns": 0}, {"keep_s": 0.0}])
def test_limits_are_positive(database, limits):
    with pytest.raises(ValueError, match="must be positive"):
        Memory(database, **limits)


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE turns (id)")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is no memory of format 2"):
        Memory(path)
    assert path.read_bytes() == before


def test_a_damaged_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "memory.db"
    path.write_bytes(b"damaged" * 1000)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        Memory(path)
    assert path.read_bytes() == b"damaged" * 1000


def test_only_its_owner_may_read_the_file(database, memory):
    assert database.stat().st_mode & 0o077 == 0


def test_a_closed_memory_says_so(memory):
    memory.close()
    memory.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        memory.recent("ann", "s", 1)


def test_a_search_without_a_session_covers_all_sessions_of_the_user_and_nobody_elses(tmp_path):
    memory = Memory(tmp_path / "memory.sqlite3")
    memory.add("ada", "monday", "1", "how is the journal fenced?", "by its epoch", 1.0)
    memory.add("ada", "tuesday", "2", "who fences the journal?", "the supervisor", 2.0)
    memory.add("bob", "monday", "3", "the journal of bob", "is private", 3.0)
    assert {turn.turn_id for turn in memory.search("ada", None, "journal", 10)} == {"1", "2"}
    assert {turn.turn_id for turn in memory.search("ada", "monday", "journal", 10)} == {"1"}
    memory.close()
