"""What a step may answer, and where two answers part."""

from __future__ import annotations

from typing import Any

import pytest

from streamd.runtime import commands
from streamd.runtime.commands import BadCommand, check, difference, losses
from streamd.runtime.state import state
from streamd.runtime.vocabulary import (
    Close,
    Count,
    Data,
    End,
    Join,
    Leave,
    Log,
    Move,
    Respond,
    Ring,
    Send,
    SendAll,
    Tick,
    Wake,
)


@state
class Guest:
    name: str = "a"


GOOD = [
    Send(1, b""),
    SendAll("g", b"", False),
    Ring("r", 0, 2, 3),
    Join(1, "g", b"", "key"),
    Leave(1, "g"),
    Close(1, "für später"),
    Respond(1, 200, {"X-A": "ä b"}, b"", False),
    Respond(1, 101, {}, b"", True),
    Move(1, "", None, False),
    Move(1, "live/a", Guest(), True),
    Wake(-1, ""),
    Log("info", ""),
    Count(""),
    End(""),
]


@pytest.mark.parametrize("command", GOOD)
def test_every_command_passes(command):
    check([command], ("g",))


def test_a_group_exists_from_its_ring_on():
    check([Ring("h", 1, 2, 3), SendAll("h", b"x", True), Join(1, "h", b"", "next")], ())
    with pytest.raises(BadCommand, match="SendAll to group 'h', which has no Ring"):
        check([SendAll("h", b"x", True), Ring("h", 1, 2, 3)], ())


@pytest.mark.parametrize("answer", [None, (), "text", {"a": 1}, iter(())])
def test_a_step_answers_with_a_list(answer):
    with pytest.raises(BadCommand, match="not a list of commands"):
        check(answer, ())


class Text(str):
    __slots__ = ()


def odd(kind: Any, *values: Any) -> Any:
    """A command of values that no type checker would let pass."""
    return kind(*values)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (None, "step returned NoneType, which is not a command"),
        (Tick(1, "x"), "step returned Tick, which is not a command"),
        (odd(Send, 1, "text"), "Send carries str, not bytes"),
        (odd(Send, [], b"x"), "Send.link is list"),
        (Send(True, b"x"), "Send.link is bool"),
        (odd(SendAll, "g", bytearray(b"x"), True), "SendAll carries bytearray, not bytes"),
        (odd(SendAll, "g", b"x", 1), "SendAll.key is int"),
        (SendAll("none", b"x", True), "SendAll to group 'none', which has no Ring"),
        (odd(Ring, "r", 1.5, 2, 3), "Ring.max_bytes is float"),
        (Ring("r", 1, -2, 3), "Ring of 1 bytes, -2 ms and 3 ms: none may be negative"),
        (Join(1, "none", b"", "key"), "Join to group 'none', which has no Ring"),
        (Join(1, "g", b"", "now"), "Join.start is 'now'"),
        (Join(True, "g", b"", "key"), "Join.link is bool"),
        (odd(Close, "1", "x"), "Close.link is str"),
        (Close(1, Text("x")), "Close.reason is Text"),
        (Close(1, "x" * 70_000), "Close.reason is 70000 characters long"),
        (Log("info", "\ud800"), "Log.text is no text: it holds half a character"),
        (Log("shout", "x"), "Log.level is 'shout'"),
        (odd(Wake, "soon", "x"), "Wake.after is str"),
        (Wake(10**15, "x"), f"Wake.after is {10**15}, more than a year"),
        (Move(1, "x", {"a": 1}, True), "Move.guest is dict, which is no record"),
        (odd(Move, 1, b"x", None, True), "Move.to is bytes"),
        (Respond(1, 99, {}, b"", False), "Respond.status is 99"),
        (Respond(1, 101, {}, b"", False), "Respond.status is 101"),
        (Respond(1, 600, {}, b"", False), "Respond.status is 600"),
        (
            odd(Respond, 1, 200, {"A": 1}, b"", False),
            "Respond.headers has 'A': 1; both are text",
        ),
        (Respond(1, 200, {"A B": "x"}, b"", False), "Respond.headers has the name 'A B'"),
        (Respond(1, 200, {"": "x"}, b"", False), "Respond.headers has the name ''"),
        (
            Respond(1, 200, {"A": "x\r\nB: y"}, b"", False),
            "Respond.headers['A'] would break the line: 'x\\r\\nB: y'",
        ),
        (odd(Respond, 1, 200, [], b"", False), "Respond.headers is list"),
    ],
)
def test_what_could_not_be_carried_out_is_refused(command, sentence):
    with pytest.raises(BadCommand) as caught:
        check([command], ("g",))
    assert str(caught.value) == sentence


def test_an_answer_has_a_bounded_number_of_commands():
    check([Count("x")] * 1000, ())
    check([Send(1, b"x")] * 2600, (), links=100)
    check([Count("x")] * 9000, (), event=Data(0, 1, bytes(8192)))
    with pytest.raises(BadCommand, match="returned 1001 commands; here it may return 1000"):
        check([Count("x")] * 1001, ())
    with pytest.raises(BadCommand, match="here it may return 2600"):
        check([Count("x")] * 2601, (), links=100)


def test_an_answer_has_a_bounded_size_and_one_payload_for_many_counts_once():
    megabyte = bytes(1 << 20)
    check([Send(link, megabyte) for link in range(200)], (), links=200)
    with pytest.raises(BadCommand, match="bytes to send; it may return 67108864"):
        check([Send(link, bytes(1 << 20)) for link in range(65)], (), links=65)
    with pytest.raises(BadCommand, match="bytes to send"):
        check([Join(1, "g", bytes(commands.MOST_BYTES), "key"), Respond(1, 200, {}, b"x", False)], ("g",))


# ---- two answers


def same(left: Any, right: Any) -> bool:
    return left == right


@pytest.mark.parametrize("command", GOOD)
def test_equal_answers_do_not_differ(command):
    assert difference([command], [command], same) is None


@pytest.mark.parametrize(
    ("old", "new", "place", "kind", "sentence"),
    [
        (
            [Send(1, b"a")],
            [Send(1, b"b")],
            0,
            "Send",
            "Send.data of Send(link=1, data=<1 bytes>) was 1 bytes (sha256 ca978112ca1b) "
            "and is 1 bytes (sha256 3e23e8160039)",
        ),
        (
            [Count("x")],
            [End("x")],
            0,
            "Count",
            "Count(what='x') has become End(reason='x')",
        ),
        (
            [Count("x"), Count("y")],
            [Count("x")],
            1,
            "count",
            "2 commands have become 1: no longer Count(what='y')",
        ),
        (
            [],
            [Send(1, b"abc")],
            0,
            "count",
            "0 commands have become 1: now also Send(link=1, data=<3 bytes>)",
        ),
        (
            [Move(1, "a", Guest("a"), True)],
            [Move(1, "a", Guest("b"), True)],
            0,
            "Move",
            "the guest of Move to 'a' has changed",
        ),
        (
            [Move(1, "a", None, True)],
            [Move(1, "b", None, True)],
            0,
            "Move",
            "Move.to of Move(link=1, to='a', create=True) was 'a' and is 'b'",
        ),
    ],
)
def test_the_first_difference_is_told(old, new, place, kind, sentence):
    assert difference(old, new, same) == (place, kind, sentence)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ([Send(1, b"a"), Count("x")], [Send(1, b"b"), Log("info", "x")], ""),
        ([SendAll("g", b"a", True)] * 3, [SendAll("g", b"abc", True)], ""),
        (
            [SendAll("g", b"a", True)] * 3,
            [SendAll("g", b"a", True)] * 2,
            "it sends 2 units to group 'g', where the running code sends 3",
        ),
        ([Close(1, "x")], [Close(1, "y")], ""),
        ([], [Wake(1, "x"), Send(1, b"x")], ""),
        ([], [Close(7, "x")], "it closes link 7, which the running code does not"),
        (
            [Close(1, "x")],
            [Close(1, "x"), Close(2, "x")],
            "it closes link 2, which the running code does not",
        ),
        ([], [Leave(7, "g")], "it takes link 7 out of its group, which the running code does not"),
        ([], [End("x")], "it ends the session, which the running code does not"),
        (
            [SendAll("g", b"a", True), SendAll("h", b"a", True)],
            [SendAll("h", b"a", True)],
            "it sends nothing to group 'g', which the running code does",
        ),
        ([Send(1, b"a")], [Send(2, b"a")], "it sends nothing to link 1, which the running code does"),
        ([Join(1, "g", b"", "key")], [], "it does not let link 1 join, which the running code does"),
        ([Respond(1, 200, {}, b"", False)], [], "it does not answer link 1, which the running code does"),
        ([Move(1, "a", None, True)], [], "it does not hand link 1 over, which the running code does"),
    ],
)
def test_what_somebody_loses_by_another_answer(old, new, sentence):
    assert losses(old, new) == sentence


class Words(str):
    """A text that is somebody's own class."""

    def __hash__(self) -> int:
        raise AssertionError("asked for its hash")


class Silence(bytes):
    def __len__(self) -> int:
        return 0


class Number(int):
    pass


class Headers(dict):
    def items(self) -> Any:
        raise AssertionError("asked for its items")


class Loud(Send):
    pass


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (SendAll(Words("g"), b"", False), "SendAll.group is Words"),
        (SendAll("g", Silence(b"x"), False), "SendAll carries Silence, not bytes"),
        (SendAll("g", b"", Number(1)), "SendAll.key is Number"),  # type: ignore[arg-type]
        (Send(1, Silence(b"x")), "Send carries Silence, not bytes"),
        (Send(Number(1), b""), "Send.link is Number"),
        (Send(True, b""), "Send.link is bool"),
        (Join(1, "g", Silence(b"x"), "key"), "Join.head is Silence"),
        (Join(1, Words("g"), b"x", "key"), "Join.group is Words"),
        (Join(1, "g", b"x", Words("key")), "Join.start is Words"),
        (Leave(1, Words("g")), "Leave.group is Words"),
        (Close(1, Words("x")), "Close.reason is Words"),
        (Ring("g", Number(1), 2, 3), "Ring.max_bytes is Number"),
        (Ring("g", True, 2, 3), "Ring.max_bytes is bool"),
        (Wake(Number(1), "x"), "Wake.after is Number"),
        (Wake(False, "x"), "Wake.after is bool"),
        (Log(Words("info"), "x"), "Log.level is Words"),
        (Log("info", Words("x")), "Log.text is Words"),
        (Count(Words("x")), "Count.what is Words"),
        (End(Words("x")), "End.reason is Words"),
        (Move(1, Words("x"), None, True), "Move.to is Words"),
        (Respond(1, 200, Headers(), b"", False), "Respond.headers is Headers"),
        (Respond(1, 200, {"a": Words("b")}, b"", False), "Respond.headers has"),
        (Respond(1, 200, {}, Silence(b"x"), False), "Respond.body is Silence"),
        (Loud(1, b""), "step returned Loud, which is not a command"),
    ],
)
def test_every_field_is_of_exactly_its_type(command, sentence):
    with pytest.raises(BadCommand, match=sentence):
        check([command], ("g",))
    with pytest.raises(BadCommand, match="not a list of commands"):
        check((command,), ("g",))
