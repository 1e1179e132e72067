"""What is written without spaces, or by older programs, is found; what is left out is named; hostile files of rules."""

from __future__ import annotations

import subprocess
import unicodedata
from contextlib import closing

import pytest

from podium.protocols.library.context import left_out
from podium.protocols.library.decoding import decoded
from podium.protocols.library.file_index import FileIndex
from podium.protocols.library.files import STANDARD_LIMITS, IndexLimits, walk
from podium.protocols.library.memory import Memory
from podium.protocols.library.ranking import is_history, is_test
from podium.protocols.library.secret_files import holds_secret, looks_secret
from podium.protocols.library.words import match_of, words_of


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def index(root, tmp_path):
    with closing(FileIndex(root, tmp_path / "index.sqlite3")) as opened:
        yield opened


def write(root, name, content):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def paths(index, question):
    return [passage.path for passage in index.search(question, 10)]


TEXTS = {
    "zh.md": "系统日志保存在磁盘上，每天凌晨清理。使用Redis缓存结果。",
    "tw.txt": "請在設定檔裡修改伺服器的埠號。",
    "ja.md": "ログは毎晩ローテーションされます。ポート番号は環境変数で指定する。",
    "ko.md": "로그는 매일 밤 정리됩니다. 포트번호를 바꾸려면 환경변수를 수정하세요.",
    "th.md": "ระบบจะลบไฟล์บันทึกทุกคืน และเริ่มต้นใหม่อัตโนมัติ",
    "lo.md": "ລະບົບຈະລຶບໄຟລ໌ທຸກຄືນ",
    "km.md": "ប្រព័ន្ធនឹងលុបឯកសារ",
    "my.md": "စနစ်သည် ဖိုင်များကို ဖျက်သည်",
    "hi.md": "सिस्टम हर रात लॉग फ़ाइलें मिटाता है",
    "ar.md": "يحذف النظام ملفات السجل كل ليلة",
    "文書/設計メモ.md": "x",
    "half.txt": "ﾊﾞｯｸｱｯﾌﾟ は毎週です",
}
QUESTIONS = {
    "日志": "zh.md",
    "日志保存在哪里？": "zh.md",
    "缓存": "zh.md",
    "redis": "zh.md",
    "盘": "zh.md",
    "伺服器的埠號怎麼改": "tw.txt",
    "ローテーション": "ja.md",
    "ポート番号はどこで指定しますか": "ja.md",
    "포트번호": "ko.md",
    "매일": "ko.md",
    "로그": "ko.md",
    "ไฟล์บันทึก": "th.md",
    "เริ่มต้นใหม่": "th.md",
    "ໄຟລ໌": "lo.md",
    "ឯកសារ": "km.md",
    "ဖိုင်များ": "my.md",
    "फ़ाइलें कौन मिटाता है": "hi.md",
    "السجل": "ar.md",
    "設計メモ": "文書/設計メモ.md",
    "バックアップ": "half.txt",
    unicodedata.normalize("NFD", "포트번호"): "ko.md",
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_written_without_spaces_is_found(question, root, index):
    for name, text in TEXTS.items():
        write(root, name, text)
    index.refresh()
    assert paths(index, question)[:1] == [QUESTIONS[question]]


def test_the_memory_of_conversations_finds_it_too(tmp_path):
    with closing(Memory(tmp_path / "memory.sqlite3")) as memory:
        for number, text in enumerate(TEXTS.values()):
            memory.add("ada", "s", f"t{number}", text, "-", number)
        for question, name in QUESTIONS.items():
            if name != "文書/設計メモ.md":
                found = memory.search("ada", None, question, 1)
                assert [turn.question for turn in found] == [TEXTS[name]], question


def test_a_memory_of_the_format_before_is_kept_and_indexed_anew(tmp_path):
    place = tmp_path / "memory.sqlite3"
    with closing(Memory(place)) as memory:
        memory.add("ada", "s", "t1", "数据库连接在哪里配置", "在配置文件里", 1.0)
        db = memory._db
        db.execute("DROP TABLE words")
        db.execute("CREATE VIRTUAL TABLE words USING fts5(owner, question, answer, tokenize = 'porter unicode61')")
        db.execute("PRAGMA user_version=1")
    with closing(Memory(place)) as memory:
        assert [turn.turn_id for turn in memory.search("ada", "s", "连接", 5)] == ["t1"]
        assert memory.search("bob", None, "连接", 5) == []
        memory.forget("ada", "s")
        assert memory.search("ada", None, "连接", 5) == []


def test_pairs_of_letters_are_the_words_of_a_question():
    assert words_of("数据库") == ["数据", "据库"]
    assert words_of("使用Python写") == ["python", "使用", "写"]
    assert match_of("税") == '"税"*'
    assert match_of("naïve") == '"naïve"*'


LEGACY = [
    ("cp1252", "Die Prüfung der Zugangsdaten für Änderungen schlägt fehl"),
    ("cp1252", "L’équipe a été prévenue – “déjà” corrigé…"),
    ("latin-1", "La contraseña caducó ayer"),
    ("cp1250", "Hasło wygasło, więc zgłoś się do działu pomocy"),
    ("cp1251", "Пароль устарел, обратитесь к администратору"),
    ("cp1251", "# настройки соединения\nport = 80\n"),
    ("koi8_r", "Пароль устарел, обратитесь к администратору"),
    ("cp866", "Пароль устарел, обратитесь к администратору"),
    ("cp1253", "Ο κωδικός πρόσβασης έχει λήξει"),
    ("cp1255", "הסיסמה פגה, פנה למנהל המערכת"),
    ("cp1256", "انتهت صلاحية كلمة المرور"),
    ("cp874", "รหัสผ่านหมดอายุแล้ว"),
    ("shift_jis", "パスワードの期限が切れました。管理者に連絡してください。"),
    ("euc_jp", "パスワードの期限が切れました。管理者に連絡してください。"),
    ("iso2022_jp", "パスワードの期限が切れました"),
    ("gb18030", "密码已经过期，请联系管理员重新设置。"),
    ("big5", "密碼已經過期，請聯絡管理員重新設定。"),
    ("cp949", "비밀번호가 만료되었습니다. 관리자에게 문의하세요."),
    ("utf-16", "Zugang\r\nпароль 密码"),
    ("utf-32", "Zugang пароль"),
    ("utf-8-sig", "é first"),
]


@pytest.mark.parametrize(("encoding", "text"), LEGACY)
def test_texts_of_older_programs_are_read(encoding, text):
    assert decoded(text.encode(encoding)) == text


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_utf_16_is_read_in_both_orders_of_bytes(mark, root, index):
    order = "utf-16-le" if mark == b"\xff\xfe" else "utf-16-be"
    write(root, "event.log", mark + "line one\nthe ocelot failed\n".encode(order))
    index.refresh()
    (found,) = index.search("ocelot")
    assert (found.path, found.text) == ("event.log", "line one\nthe ocelot failed\n")


def test_utf_8_with_a_broken_letter_stays_utf_8():
    assert decoded("ёлка, ель и ещё одна сосна".encode() + b"\xff") == "ёлка, ель и ещё одна сосна\ufffd"


@pytest.mark.parametrize("content", [b"\x7fELF\0\0", b"\x89PNG\r\n\x1a\n\0", b"\xff\xfe\0\0\0\0\0\0" * 9, b"ab\0cd"])
def test_binaries_are_no_texts(content):
    assert decoded(content) is None


def test_what_is_in_no_known_encoding_is_named(root, index):
    write(root, "noise.dat", bytes(range(128, 256)) * 4)
    done = index.refresh()
    assert (dict(done.skipped), dict(done.named)) == ({"encoding": 1}, {"encoding": ("noise.dat",)})
    assert left_out(index.refresh()) == "1 in no known encoding (noise.dat)"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("word", ["Überprüfung", "café", "한국어문서", "ガイド"])
def test_composed_and_decomposed_are_the_same(form, word, root, index):
    write(root, "a.txt", unicodedata.normalize("NFD", f"x {word} y"))
    write(root, "b.txt", unicodedata.normalize("NFC", f"x {word} y"))
    write(root, unicodedata.normalize("NFD", f"{word}.md"), "x")
    index.refresh()
    found = [unicodedata.normalize("NFC", path) for path in paths(index, unicodedata.normalize(form, word))]
    assert set(found) == {"a.txt", "b.txt", unicodedata.normalize("NFC", f"{word}.md")}


CODE = [
        "auth/secrets.py", "Secrets.java", "lib/credentials.rb", "credentials.tsx", "docs/credentials.rst",
        "Secrets.md", "internal/secrets/secrets.go", "id_rsa_parser.py", "credentials_test.go"]  # fmt: skip
DATA = ["credentials.json", "config/secrets.yml", "secrets.toml", "credentials", "credentials.csv", ".env.production",
        "id_rsa", "id_ed25519_work", "prod.tfvars", "client_secret_12.json", "config/master.key", "a.pem"]  # fmt: skip


@pytest.mark.parametrize("name", CODE)
def test_a_word_in_a_name_hides_no_code(name):
    assert not looks_secret(name.rpartition("/")[2])


@pytest.mark.parametrize("name", DATA)
def test_known_files_of_keys_are_hidden_by_name(name):
    assert looks_secret(name.rpartition("/")[2])


_KEY = "A" * 60 + "\n"
HOLDING = [
    f"-----BEGIN RSA PRIVATE KEY-----\n{_KEY * 3}",
    f"-----BEGIN PRIVATE KEY-----\r\n{_KEY}",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{_KEY}",
    f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n{_KEY}",
    '{"private_key": "-----BEGIN PRIVATE KEY-----\\n' + "B" * 64 + '\\n"}',
    "key = AKIA" + "QWERTYUIOPASDFGH"[:16],
    "token: ghp_" + "a1" * 18,
    "github_pat_" + "a1b2" * 16,
    "xoxb-" + "123456789012-abcdefghijkl",
    "OPENAI=sk-proj-" + "a1B2" * 12,
    "sk-ant-api03-" + "a1B2" * 12,
    "stripe = sk_live_" + "a1" * 12,
    "//registry/:_authToken=npm_" + "a" * 36,
    "glpat-" + "a1B2" * 5,
    "AIza" + "a" * 35,
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n" + _KEY,
]
HARMLESS = [
    "put the -----BEGIN PRIVATE KEY----- line first",
    "-----BEGIN CERTIFICATE-----\n" + _KEY,
    "-----BEGIN PUBLIC KEY-----\n" + _KEY,
    "AKIAIOSFODNN7EXAMPLE",
    "ghp_xxxx",
    "the task-" + "a1" * 30,
    "disk-usage-report-2024",
    "sk-...",
    "password = 'hunter2'",
]


@pytest.mark.parametrize("text", HOLDING)
def test_keys_and_tokens_are_known_by_what_they_look_like(text, root, index):
    write(root, "notes.txt", f"the narwhal\n{text}\n")
    write(root, "wide.txt", f"the narwhal\n{text}\n".encode("utf-16"))
    done = index.refresh()
    assert (paths(index, "narwhal"), dict(done.skipped)) == ([], {"secret": 2})
    assert left_out(done) == "2 with keys or passwords (notes.txt, wide.txt)"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_a_key_is_found(text):
    assert not holds_secret(text.encode())


def test_what_is_left_out_is_still_told_when_nothing_has_changed(root, index):
    write(root, "key.txt", HOLDING[0])
    for number in range(5):
        write(root, f"{number}/.env", "x")
    index.refresh()
    said = left_out(index.refresh())
    assert said == "6 with keys or passwords (key.txt, 0/.env, 1/.env, …)"


def test_secrets_may_be_asked_for(root, tmp_path):
    write(root, "key.txt", f"the narwhal {HOLDING[0]}")
    with closing(FileIndex(root, tmp_path / "i", IndexLimits(with_secrets=True))) as index:
        index.refresh()
        assert paths(index, "narwhal") == ["key.txt"]


RULES = [
    "[z-a]*.tmp", "[a-Z]*.tmp", "*.[b-A]", "[[:alpha:]].tmp", "[[:nope:]]", "[[:digit:][:upper:]]*", "[", "[!", "a[b",
    "\\", "x\\", "**", "***", "[a-", "(?P<x>a)", "{1,99999999}", "[\\", "[]-a]b", "!", "!/", "/", "//",
]  # fmt: skip


@pytest.mark.parametrize("line", RULES)
def test_a_bad_line_of_gitignore_counts_as_for_git(line, root):
    for name in ("a.tmp", "b.md", "Z.tmp", "7up.c", "d/a.b", "d/[x"):
        write(root, name, "x")
    write(root, ".gitignore", f"{line}\n*.md\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z", "-o", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    ours = [found.path for found in walk(root, STANDARD_LIMITS) if found.skipped is None]
    assert sorted(ours) == sorted(name for name in listed if name)
    assert "b.md" not in ours


TESTS = ["t/unit/app.py", "testing/x.go", "e2e/login.ts", "integration/flow.rb", "pkg/testdata/a.json", "conftest.py",
         "src/UserTest.java", "UserServiceTests.cs", "cart.spec.ts", "parser_test.go", "foo-test.js",
         "FooSpec.scala", "spec/models/user.rb", "src/__mocks__/fs.js", "test_x.py", "LoginIT.java"]  # fmt: skip
NO_TESTS = [
    "src/contest.py",
    "latest.md",
    "protest/app.py",
    "attest.go",
    "Testament.txt",
    "src/specification.md",
    "inspect.py",
    "greatest_hits.py",
    "tools/tester.py",
    "app/edit.py",
    "AUDIT.md",
]
HISTORIES = ["CHANGELOG.md", "Changes", "docs/changelog-4.3.rst", "HISTORY.rst", "NEWS", "RELEASES.md",
             "release_notes.txt",
             "docs/whatsnew/5.0.rst", "docs/history/1.txt", "changelog.d/1.md", "news-2.0.txt", "CHANGES.4.2",
             "docs/upgrading.md"]  # fmt: skip
NO_HISTORIES = ["changes.py", "src/history.ts", "docs/exchange.md", "news.go", "historyless.md", "releaser/readme.md",
                "app/changelog.rb", "newsletter.md"]  # fmt: skip


def test_tests_and_histories_are_known_by_their_paths():
    assert [path for path in TESTS if not is_test(path)] == []
    assert [path for path in NO_TESTS if is_test(path)] == []
    assert [path for path in HISTORIES if not is_history(path)] == []
    assert [path for path in NO_HISTORIES if is_history(path)] == []


def test_code_comes_before_what_only_mentions_it_unless_that_was_asked_for(root, index):
    said = "- the scheduler drops stale leases after a pause\n"
    write(
        root,
        "core/scheduler.py",
        "def expire(self):\n    '''Drops stale leases after a pause.'''\n" + "    y = 2\n" * 20,
    )
    write(root, "NEWS.md", said * 3)
    write(root, "e2e/leases.py", f"# {said}" * 3)
    index.refresh()
    assert paths(index, "when does the scheduler drop stale leases after a pause?")[0] == "core/scheduler.py"
    assert paths(index, "which release changed that the scheduler drops stale leases?")[0] == "NEWS.md"
    assert paths(index, "which test covers that the scheduler drops stale leases?")[0] == "e2e/leases.py"
