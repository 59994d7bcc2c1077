"""The law for live code: every sentence that refuses, with the line, and what must stay allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamd.runtime.law import check_live_source
from streamd.runtime.patchfile import merge, parse, versions_of
from streamd.runtime.release import read_tree
from streamd.runtime.source import PatchError
from tests.fake_live import FIX


def patch_of(text: str):
    return parse(Path("fix.py"), text)


def refusal(body: str, module: str = "media.codec") -> str:
    with pytest.raises(PatchError) as refused:
        check_live_source(module, body, "fix.py", frozenset({"", "media", "media.codec", "media.box"}))
    assert refused.value.stage == "check"
    return str(refused.value)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("async def f():\n    pass", "fix.py:4: live code never awaits"),
        ("def f():\n    async def g():\n        await h()", "never awaits"),
        ("def f():\n    global X", "no global variables"),
        ("def f():\n    x = 1\n    def g():\n        nonlocal x", "no global variables"),
        ("def f():\n    import struct", "fix.py:5: imports stand at the top"),
        ("import asyncio", "may not import asyncio: I/O, time, logging and randomness are commands"),
        ("import os.path as p", "may not import os.path"),
        ("from time import monotonic", "may not import time"),
        ("from concurrent.futures import Future", "may not import concurrent.futures"),
        ("import aiohttp", "may not import aiohttp: it has the standard library and streamd.live only"),
        ("import msgpack", "may not import msgpack"),
        ("from streamd.runtime.net import Link", "may not import streamd.runtime.net; of the kernel only"),
        ("from streamd.runtime import state", "may not import streamd.runtime"),
        ("import streamd.runtime.state", "write: from streamd.runtime import state"),
        ("import streamd.live.media.codec", "write: from streamd.live.media import codec"),
        ("from . import codec", "write the full name"),
        (
            "from streamd.live.handlers import room",
            "media.codec may not import room from streamd.live.handlers",
        ),
        ("from streamd.live.media.none import x", "there is no live module media.none"),
        ("CACHE = {}", "CACHE is a mutable value"),
        ("CACHE = dict()", "mutable value"),
        ("CACHE: list[int] = [1]", "mutable value"),
        ("CACHE = [x for x in ()]", "mutable value"),
        ("CACHE = (1, [])", "mutable value"),
        ("import collections\nCACHE = collections.defaultdict(int)", "mutable value"),
        ("CACHE = (x for x in ())", "mutable value"),
        ("class Odd:\n    seen = []", "seen is a mutable value"),
        ("def f(a, seen=[]):\n    pass", "a mutable default argument is hidden state"),
        ("def f(seen={}, /):\n    pass", "a mutable default argument is hidden state"),
        ("def f(*, seen={}):\n    pass", "a mutable default argument is hidden state"),
        ("F = lambda seen=[]: seen", "a mutable default argument is hidden state"),
        ("import functools\n\n@functools.cache\ndef f():\n    pass", "a cache is hidden state"),
        (
            "from functools import lru_cache\n\n@lru_cache(maxsize=1)\ndef f():\n    pass",
            "a cache is hidden state",
        ),
        ("def f():\n    open('/etc/passwd')", r"does not call open\(\)"),
        ("def f():\n    eval('1')", r"does not call eval\(\)"),
        ("def f():\n    return f.__globals__", "does not reach for __globals__"),
    ],
)
def test_the_law_for_live_code_is_kept_with_the_line_of_the_patch(tree, line, sentence):
    texts = {name: text for name, (_, text) in read_tree(tree).items()}
    patch = patch_of(f'AMENDS = "media.codec@1"\nVERSION = 2\n\n{line}\n')
    with pytest.raises(PatchError, match=sentence) as refused:
        merge([patch], texts, versions_of(texts))
    assert refused.value.stage == "check"


@pytest.mark.parametrize(
    "text",
    [
        "import struct\nfrom types import MappingProxyType\nT = MappingProxyType({1: [2]})\nS = struct.Struct('>I')\n",
        "from streamd.live.media import codec\nX = (1, (2, frozenset((3,))))\n",
        "def f(a=(), *, b=None):\n    seen = []\n    return [x for x in seen]\n",
    ],
)
def test_the_law_allows_what_is_needed(text):
    check_live_source("media.codec", text)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        # what would swallow the watchdog's call, or end the server
        ("try:\n        g()\n    except:\n        pass", "a bare except would swallow"),
        (
            "try:\n        g()\n    except BaseException:\n        pass",
            "neither raises nor catches BaseException",
        ),
        ("try:\n        g()\n    except (ValueError, KeyboardInterrupt):\n        pass", "KeyboardInterrupt"),
        ("raise SystemExit", "neither raises nor catches SystemExit"),
        ("raise SystemExit(1)", "neither raises nor catches SystemExit"),
        ("raise GeneratorExit()", "neither raises nor catches GeneratorExit"),
        ("with suppress(BaseException):\n        pass", "BaseException"),
        ("try:\n        g()\n    except Exception.__base__:\n        pass", "does not reach for __base__"),
        (
            "try:\n        g()\n    finally:\n        return 1",
            "return in a finally swallows whatever was raised",
        ),
        (
            "while x:\n        try:\n            g()\n        finally:\n            break",
            "break in a finally",
        ),
        (
            "while x:\n        try:\n            g()\n        finally:\n            continue",
            "continue in a finally",
        ),
        ("try:\n        g()\n    finally:\n        if x:\n            return 1", "return in a finally"),
        (
            "try:\n        g()\n    finally:\n        for a in x:\n            pass\n        else:\n            return",
            "return in",
        ),
        ("try:\n        g()\n    finally:\n        with x:\n            return", "return in a finally"),
        (
            "try:\n        g()\n    finally:\n        match x:\n            case 1:\n                return",
            "return in a finally",
        ),
        ("try:\n        pass\n    finally:\n        f(x)", "no loop and no call there"),
        ("try:\n        pass\n    finally:\n        x.clear()", "no loop and no call there"),
        (
            "try:\n        pass\n    finally:\n        while x:\n            x = 0",
            "no loop and no call there",
        ),
        ("class Guard:\n        def __exit__(self, *a):\n            return True", "defines no __exit__"),
        ("class Late:\n        def __del__(self):\n            pass", "defines no __del__"),
        # namespaces
        ("setattr(x, 'a', 1)", r"does not call setattr\(\)"),
        ("delattr(x, 'a')", r"does not call delattr\(\)"),
        ("vars(x)['a'] = 1", r"does not call vars\(\)"),
        ("locals()", r"does not call locals\(\)"),
        ("put = setattr\n    put(x, 'a', 1)", "does not use setattr"),
        ("return map(exec, x)", "does not use exec"),
        ("getattr(x, name)()", "by a name that only shows when it runs"),
        ("getattr(x, '__globals__')", "by a name that only shows when it runs"),
        ("return map(getattr, x, name)", "does not pass getattr on"),
        ("struct.sys.exit()", "does not reach for sys"),
        ("return itertools.operator.attrgetter(name)", "does not reach for attrgetter"),
        ("match x:\n        case object(__globals__=g):\n            pass", "does not reach for __globals__"),
        ("x.__class__ = int", "does not reach for __class__"),
        ("x.__dict__['a'] = 1", "does not reach for __dict__"),
        ("object.__setattr__(x, 'a', 1)", "does not reach for __setattr__"),
        # what belongs to every session
        ("box.SIZE = 1", "box belongs to every session; live code changes nothing but its own state"),
        ("box.SIZE += 1", "box belongs"),
        ("del box.SIZE", "box belongs"),
        ("box.TABLE['a'] = 1", "box belongs"),
        ("box.Track.config.x[1] = 1", "box belongs"),
        ("(box.a, y) = 1, 2", "box belongs"),
        ("for box.a in x:\n        pass", "box belongs"),
        ("with x as box.a:\n        pass", "box belongs"),
        ("box.a: int = 1", "box belongs"),
        ("Track.config = b''", "Track belongs"),
        ("TABLE[0] = 1", "TABLE belongs"),
        ("f.calls = 1", "f belongs"),
        ("struct.pack = x", "struct belongs"),
        ("Send.link = 1", "Send belongs"),
        ("type(x).config = b''", "a class belongs to every session"),
        ("class Inner:\n        @classmethod\n        def g(box):\n            box.a = 1", "box belongs"),
        ("def g():\n        box.a = 1", "box belongs"),
        ("return [0 for box.a in x]", "box belongs"),
        # loops that no signal reaches
        (
            "return sum(itertools.count())",
            r"itertools.count\(\) never ends; bound it with range, zip or islice",
        ),
        ("return list(itertools.cycle(x))", "never ends"),
        ("return max(itertools.repeat(1))", "never ends"),
        ("return list(forever())", r"forever\(\) never ends"),
        ("return list(zip(itertools.count(), itertools.cycle(x)))", "never ends"),
        ("return list(map(f, itertools.count()))", "never ends"),
        ("return list(iter(int, 1))", "may never end where no watchdog reaches it"),
        ("return sum(range(10 ** 12))", "a range of more than 2\\*\\*31"),
        ("return sum(range(0, 1 << 40))", "a range of more than"),
        ("return max(range(-3_000_000_000, 0))", "a range of more than"),
        ("return sum(range(1000 * 1000 * 1000 * 1000))", "a range of more than"),
        ("return max(itertools.product(x, x))", "does not use product: it may never end"),
        # what the interpreter calls by itself, in the kernel's hands
        ("class Odd(Exception):\n        def __str__(self):\n            pass", "defines no __str__"),
        ("class Odd(bytes):\n        def __len__(self):\n            pass", "defines no __len__"),
        ("class Odd:\n        __eq__ = f", "defines no __eq__"),
        ("class Odd:\n        (a, __hash__) = x", "defines no __hash__"),
        ("class Odd:\n        import struct as __repr__", "imports stand at the top|defines no __repr__"),
        ("class Odd:\n        for __bool__ in x:\n            pass", "defines no __bool__"),
        ("class Odd:\n        def __init_subclass__(cls):\n            pass", "defines no __init_subclass__"),
        ("def __getattr__(name):\n        pass", "defines no __getattr__"),
        ("def __init__(self):\n        pass", "defines no __init__"),
        ("x.__str__ = g", "does not change __str__"),
        ("class Odd(metaclass=g):\n        pass", "no metaclasses"),
        ("return type('Odd', (bytes,), {})", "does not make classes of data"),
        ("return x.mro()", "does not reach for mro"),
    ],
)
def test_what_would_defeat_the_kernel_is_refused(body, sentence):
    text = (
        "from __future__ import annotations\n\nimport itertools\nimport struct\nfrom itertools import count as forever\n"
        "from streamd.live.media import box\nfrom streamd.runtime.vocabulary import Send\n\nVERSION = 1\nTABLE = (1,)\n\n\n"
        f"class Track:\n    config = b''\n\n\ndef f(x, name, g, suppress):\n    {body}\n"
    )
    with pytest.raises(PatchError, match=sentence) as refused:
        check_live_source("media.codec", text, "fix.py")
    assert refused.value.stage == "check"
    lines = str(refused.value).splitlines()
    assert lines[1].strip() in {line.strip() for line in text.splitlines()}
    assert lines[2].strip() == "^"


@pytest.mark.parametrize(
    "body",
    [
        "x.a = 1",
        "x.a.b[1] = 2",
        "del x[0]",
        "box = x.box\n    box.a = 1",
        "for box in x:\n        box.a = 1",
        "match x:\n        case [box, *_]:\n            box.a = 1",
        "try:\n        pass\n    except ValueError as box:\n        box.a = 1",
        "with x as box:\n        box.a = 1",
        "return [0 for box in x if (box.a)]",
        "def g(box):\n        box.a = 1",
        "def g(*box, **struct):\n        box[0] = struct['a'] = 1",
        "if (box := x):\n        box.a = 1",
        "try:\n        pass\n    finally:\n        x.a = None",
        "return range(1 << 20), range(2 ** 31), range(len(x))",
        "raise x.Odd",
        "try:\n        return 1\n    except (KeyError, ValueError):\n        raise",
        "try:\n        return 1\n    except Exception as error:\n        raise TypeError from error",
        "return list(zip(itertools.count(), x))",
        "return list(itertools.islice(itertools.cycle(x), 9))",
        "return list(itertools.repeat(1, 9)) + list(itertools.repeat(1, times=3))",
        "return list(map(f, itertools.count(), x))",
        "return x.count(1), x.repeat(), iter(x)",
        "return getattr(x, 'name', None)",
        "return box.code, x.time, x.queue",
        "return type(x).__name__",
        "return f(input=1)",
    ],
)
def test_what_is_the_session_s_own_may_be_changed(body):
    text = (
        "from __future__ import annotations\n\nimport itertools\nimport struct\nfrom streamd.live.media import box\n\n"
        f"VERSION = 1\nTABLE = (1,)\n\n\ndef f(x, input=None):\n    {body}\n"
    )
    check_live_source("media.codec", text, "fix.py")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("import weakref", "may not import weakref"),
        ("import _socket", "may not import _socket"),
        ("import pickle", "may not import pickle"),
        ("from enum import sys", "may not import sys from enum"),
        ("import contextlib", "may not import contextlib; of the standard library only"),
        ("import decimal", "may not import decimal"),
        ("import urllib.request", "may not import urllib.request"),
        ("from typing import get_type_hints", "may not import get_type_hints from typing"),
        ("from types import FunctionType", "may not import FunctionType from types"),
        ("from string import Formatter", "may not import Formatter from string"),
        ("from operator import attrgetter", "may not import attrgetter from operator"),
        ("from streamd.runtime.state import sys", "may not import sys from streamd.runtime.state"),
        ("from streamd.runtime.state import _plan", "may not import _plan from streamd.runtime.state"),
        ("from streamd.runtime import patchfile", "may not import streamd.runtime"),
    ],
)
def test_side_doors_to_what_may_not_be_imported_are_shut(line, sentence):
    assert sentence in refusal(f"{line}\n")


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ("@state\nclass Odd:\n    def __post_init__(self):\n        pass\n", "defines no __post_init__"),
        ("@state\nclass Odd:\n    def told(self):\n        pass\n", "Odd is a record: it has fields only; write a function"),
        ("@state\nclass Odd:\n    a = 1\n", "Odd is a record: it has fields only, each with its type"),
        ("@state\nclass Odd(Exception):\n    a: int\n", "Odd is a record: it has fields of its own and inherits nothing"),
        ("@final\n@state\nclass Odd:\n    a: int\n", "Odd is a record: @state is its only decorator"),
        ("@data\nclass Odd:\n    a = 1\n", "Odd is a record"),
    ],
)  # fmt: skip
def test_a_record_is_data(record, sentence):
    assert sentence in refusal(
        "from streamd.runtime.state import state\nfrom streamd.runtime.state import state as data\n"
        f"from typing import final\n\n\n{record}"
    )


@pytest.mark.parametrize(
    "text",
    [
        '@state\nclass Fine:\n    """What it is."""\n\n    a: int = 0\n    b: list[int] = field(list)\n',
        "class Cursor:\n    __slots__ = ('a',)\n\n    def __init__(self, a):\n        self.a = a\n\n    def go(self):\n        pass\n",
        "class Odd(ValueError):\n    pass\n",
        "class Pair(NamedTuple):\n    a: int\n    b: int = 0\n",
    ],
)
def test_classes_that_live_code_needs(text):
    head = "from typing import NamedTuple\nfrom urllib.parse import unquote\nfrom streamd.runtime.state import field, state\n\n\n"
    check_live_source("media.codec", head + text, "fix.py")


def test_a_refusal_shows_the_line_and_points_at_the_place():
    body = "def f(track):\n\tif track:\n\t\tx = 'é'; y = eval(x)\n"
    assert refusal(body) == (
        "fix.py:3: live code does not call eval()\n    x = 'é'; y = eval(x)\n                 ^"
    )
    long = f"def f():\n    x = {'1 + ' * 60}eval('1')\n"
    line, caret = refusal(long).splitlines()[1:]
    assert len(line) <= 124
    assert line[caret.index("^") :].startswith("eval")


def test_nothing_of_the_law_stands_in_the_way_of_what_the_tests_patch(tree):
    texts = {name: text for name, (_, text) in read_tree(tree).items()}
    for name, text in merge([patch_of(FIX)], texts, versions_of(texts)).items():
        check_live_source(name, text, "", frozenset(texts))
