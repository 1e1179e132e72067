"""Decodes the bytes of a file to text, whatever program wrote it.

Forms that identify themselves come first: a byte-order mark, and the escape sequences of ISO-2022-JP. Then comes UTF-8;
a few broken bytes in it are replaced. All other files come from older programs and do not say in which encoding they
are. So each encoding in use is tried, and the text that reads most like a language wins: words of one script, frequent
letters, no symbols inside of words. A text of a few words may be decoded wrongly. A text that reads like no language is
not decoded.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Mapping

BINARY_PROBE_BYTES = 8192
"""Number of first bytes in which a NUL makes a file binary, as in git. A byte-order mark overrides this."""
SAMPLE_BYTES = 65_536
"""Size of the beginning of a file from which an encoding is guessed."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BAD_PER_GOOD = 10
"""Least number of good letters beyond ASCII per broken one in a text that is accepted as UTF-8."""
_LEAST_SCORE = 0.3
"""Lowest score of an accepted encoding; 1 is the best score. Texts below are in no known encoding."""
_FEW = 3
"""Fewer letters beyond ASCII than this are doubtful: most often they are the one accent of an English text."""
_MOST_CONTROLS = 0.02
"""Largest share of control characters in a text."""

_SYMBOLS = frozenset("’‘“”„–—…€£§°«»¿¡ºª©®·№\xa0")
_WESTERN = frozenset("äöüßéèêëàâçñóíáúïîôûåøæœÄÖÜÉÀÇÑÁÍÓÚÅØÆŒ")
_CENTRAL = frozenset("ąćęłńóśźżáčďéěíňřšťúůýžőűöüäôĺľŕăâîșțşţđĄĆĘŁŃÓŚŹŻÁČĎÉĚÍŇŘŠŤÚŮÝŽŐŰÖÜÄ")
_RUSSIAN = frozenset("оеаинтсрвлкмдпуяыьгзбОАИНСПВ")
_GREEK = frozenset("αάεέηήιίοόσςτνυύρπκλμδωώ")
_HEBREW = frozenset("יהולאתרבמשםנעפסדחג")
_ARABIC = frozenset("اليمنتربودعهةسفقحك")
_THAI = frozenset("านรอกเงมยลวดทสตะปบคหแจพชขใไโทีิ่้ัุูึื์็ผถ")
_HAN = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去"
    "法学如都同现当没动面起看定天分还进好小部其些主样理心本前开但因只从想实日者意无力它与长把机十第公此已工使情明性知全三又关点正业外"
    "将两高间由问很最重并物手应向头文体相见被利什二等产或新己制身果加月话合回特代内信表化给世位次度门任常先通教原提立及比员解水名真论"
    "处走义各入几口认条平系气题更别打变四总何电数安少报才结反受目太量再感建务做接必场件计管期直资命指许统区保至形社便空决治展科五基非"
    "则听界达光放强即像难且权思完设式色路记品告类求据程边该交规万取格望术领共确传师观清今切让识候带导运库连配置失败任试测错误请输输出"
    "這個們來為國說時會對過發後裡學當沒動還進樣開從實無與長機關點業將兩間問應頭體見產話內門員論處義幾認條氣題變總電數報結場計統區則聽"
    "強難權設記類據邊該規術領確傳師觀讓識帶導運庫連檔線編輯測試資料繁灣臺語変更漢字定"
)
_SYLLABLES = frozenset(
    "이다는을의에가고를한은로하지사기도리자인시정서그대나부일어스전해보제수상주구여아과들조원관장위경무오만공동비면있안산성국중모합신회소"
    "우라용문발방연교분화생적으음니까습입했됩할된되않없학점값줄열쇠켜닫검색및또와것때거더데러려레르메며명미바배번변베터트타파프포표품필행현호계결"
)
"""Sets of letters that make up most of any text in a language."""


def decoded(content: bytes) -> str | None:
    """Decode bytes to composed text (NFC); None if they are no text, or in no known encoding."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _composed(_marked(content, encoding))
    if is_binary(content):
        return None
    if b"\x1b$" in content[:SAMPLE_BYTES]:
        try:
            return _composed(content.decode("iso2022_jp_2"))
        except UnicodeDecodeError:  # colours for a terminal, say
            pass
    try:
        return _composed(content.decode())
    except UnicodeDecodeError:
        return _composed(_older(content))


def is_binary(content: bytes) -> bool:
    """Return whether bytes are binary: a NUL near the beginning, without a byte-order mark."""
    return b"\0" in content[:BINARY_PROBE_BYTES] and not content.startswith(tuple(mark for mark, _ in _MARKS))


def _composed(text: str | None) -> str | None:
    return text if text is None or text.isascii() else unicodedata.normalize("NFC", text)


def _marked(content: bytes, encoding: str) -> str | None:
    text = content.decode(encoding, errors="replace")
    strange = text.count("\0") + (text.count("\ufffd") if encoding != "utf-8-sig" else 0)
    return None if strange > len(text) * _MOST_CONTROLS else text


def _older(content: bytes) -> str | None:
    sample = content[:SAMPLE_BYTES]
    replaced = sample.decode(errors="replace")
    bad = replaced.count("\ufffd")
    if bad * _BAD_PER_GOOD <= sum(not char.isascii() for char in replaced) - bad:
        return content.decode(errors="replace")
    scores = {encoding: score_of(sample, encoding) for encoding in ENCODINGS}
    best = max(scores, key=lambda encoding: scores[encoding])  # the first of several that are alike
    return content.decode(best, errors="replace") if scores[best] >= _LEAST_SCORE else None


def score_of(sample: bytes, encoding: str) -> float:
    """Return how much bytes read like a language in an encoding: 1 is best; -1 if they cannot be text in it."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return -1.0
    foreign = [char for char in text if not char.isascii()]
    controls = sum((char < " " and char not in "\t\n\r\f\x1b") or "\x7f" <= char <= "\x9f" for char in text)
    if not foreign or controls > len(text) * _MOST_CONTROLS:
        return -1.0
    weigh = ENCODINGS[encoding]
    doubt = 0.5 if len(foreign) < _FEW and encoding not in ("cp1252", "latin-1") else 0.0
    return (sum(map(weigh, foreign)) - _mixed(text)) / len(foreign) - doubt


_LATIN = r"A-Za-z\u00c0-\u024f"
_CYRILLIC = r"\u0400-\u04ff"
_OTHERS = r"\u0370-\u03ff\u0590-\u06ff\u0e01-\u0e5b"
_MIXED = re.compile(
    rf"[A-Za-z][{_CYRILLIC}{_OTHERS}]|[{_CYRILLIC}{_OTHERS}][A-Za-z]|[{_CYRILLIC}][{_OTHERS}]|[{_OTHERS}][{_CYRILLIC}]"
    rf"|[a-z][\u3040-\u9fff\uac00-\ud7af][a-z]|[{_LATIN}{_CYRILLIC}][^\w\s\u2019\-][{_LATIN}{_CYRILLIC}]"
    rf"|[a-z\u0430-\u044f\u00e0-\u00ff][A-Z\u0410-\u042f\u00c0-\u00de](?![a-z])|[\u00c0-\u024f]{{3}}"
    rf"|\b[бвгджзйклмнпрстфхцчшщ]{{4,}}\b|ς\w|[םןךףץ][א-ת]|(?<![\u0e01-\u0e2e\u0e31-\u0e4e])[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]"
)
"""Patterns that no word has: letters of two alphabets, a symbol inside, a capital at the end, three accents in a row,
no vowel, a final letter form before another letter, a Thai vowel sign without a letter."""


def _mixed(text: str) -> int:
    return sum(not found[0].isascii() for found in _MIXED.finditer(text))


def _alphabet(usual: frozenset[str], first: str, last: str, most: float = 1.0) -> Callable[[str], float]:
    """Return a weight function for an alphabet from `first` to `last`, in which `usual` letters are frequent."""

    def weigh(char: str) -> float:
        if char in usual:
            return most
        if char in _SYMBOLS:
            return most - 0.4
        return most - 0.5 if first <= char <= last and char.isalpha() else -0.5

    return weigh


def _ideographs(encoding: str, common: str, extra: Callable[[str], float]) -> Callable[[str], float]:
    """Return a weight function for an encoding with ideographs; the first byte tells the common ones."""
    low, high = bytes.fromhex(common)

    def weigh(char: str) -> float:
        if "\u3000" <= char <= "\u3002" or "\uff01" <= char <= "\uff5e" or char in "「」『』・ー“”‘’…—":
            return 0.7
        if "\u4e00" <= char <= "\u9fff":
            first = char.encode(encoding, errors="replace")[0]
            return 1.0 if char in _HAN else 0.6 if low <= first <= high else -0.3
        return extra(char)

    return weigh


def _kana(char: str) -> float:
    return 1.0 if "\u3041" <= char <= "\u30ff" else -0.5


def _hangul(char: str) -> float:
    if char in _SYLLABLES:
        return 1.0
    return 0.4 if "\uac00" <= char <= "\ud7a3" and 0xB0 <= char.encode("cp949")[0] <= 0xC8 else -0.5


def _no_letters(char: str) -> float:
    return -0.5


ENCODINGS: Mapping[str, Callable[[str], float]] = {
    "cp1252": _alphabet(_WESTERN, "\xc0", "\xff", 0.95),
    "latin-1": _alphabet(_WESTERN, "\xc0", "\xff", 0.95),
    "cp1250": _alphabet(_CENTRAL, "\xc0", "\u024f", 0.9),
    "iso8859_2": _alphabet(_CENTRAL, "\xc0", "\u024f", 0.9),
    "cp1255": _alphabet(_HEBREW, "\u05d0", "\u05ea"),
    "cp1251": _alphabet(_RUSSIAN, "\u0401", "\u0491"),
    "koi8_r": _alphabet(_RUSSIAN, "\u0401", "\u0491"),
    "cp866": _alphabet(_RUSSIAN, "\u0401", "\u0491"),
    "cp1253": _alphabet(_GREEK, "\u0386", "\u03ce"),
    "cp1256": _alphabet(_ARABIC, "\u0621", "\u06d2"),
    "cp874": _alphabet(_THAI, "\u0e01", "\u0e4e", 0.95),
    "cp932": _ideographs("cp932", "8897", _kana),
    "euc_jp": _ideographs("euc_jp", "b0cf", _kana),
    "gb18030": _ideographs("gb18030", "b0d7", _no_letters),
    "big5": _ideographs("big5", "a4c6", _no_letters),
    "cp949": _ideographs("cp949", "caff", _hangul),
}
"""Weight functions for letters beyond ASCII, by encoding: from -0.5 for a strange letter to 1 for a frequent one."""
