"""The law for live code, for shipped modules and patches alike, read from the syntax tree.

The rule this file keeps: what is refused is refused with the line, and with what to write instead. The law holds off
what an honest author does by mistake, and what would defeat the kernel's guards: waiting, looking at clocks, hidden
state, changing code that others run, swallowing the exception with which the kernel ends a step that does not return,
and loops inside the interpreter where no signal reaches them. It is no sandbox: who may load a patch may do anything.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from streamd.runtime.source import PACKAGE, error_at, live_imports, parse

KERNEL = frozenset({"streamd.runtime.state", "streamd.runtime.vocabulary"})
# Which live modules a package may import, as prefixes ("Arrows" in tests/test_arrows.py): protocol and media their own kind,
# policy both. A script tag of FLV is AMF by its own specification (Annex E.4.4), hence the one exception.
MAY_IMPORT = {
    "protocol": ("protocol",),
    "media": ("media", "protocol.amf"),
    "handlers": ("handlers", "media", "protocol"),
}
FORBIDDEN = frozenset(
    "asyncio socket threading time os logging random subprocess importlib sys io selectors signal multiprocessing "
    "concurrent ctypes builtins pathlib shutil tempfile secrets gc inspect queue ssl select sched weakref atexit "
    "pickle shelve marshal runpy code codeop traceback warnings http urllib smtplib ftplib mmap fcntl resource "
    "faulthandler posix glob sqlite3 dbm webbrowser getpass uuid platform contextvars socketserver".split()
)
# Names of builtins that live code does not use: I/O, and whatever reaches into namespaces.
FORBIDDEN_CALLS = frozenset(
    "open exec eval compile __import__ input print globals breakpoint setattr delattr vars locals".split()
)
MUTABLE_CALLS = frozenset(
    "list dict set bytearray deque defaultdict OrderedDict Counter count cycle iter open".split()
)
CACHES = frozenset({"cache", "lru_cache", "cached_property"})
# The exceptions with which the interpreter or the kernel ends what does not end by itself.
NOT_CAUGHT = frozenset(
    {"BaseException", "BaseExceptionGroup", "SystemExit", "KeyboardInterrupt", "GeneratorExit"}
)
# Attributes through which code, classes and namespaces are reached that belong to others.
REACHING = frozenset(
    "__globals__ __builtins__ __subclasses__ __code__ __class__ __dict__ __closure__ __defaults__ __kwdefaults__ "
    "__bases__ __base__ __mro__ __setattr__ __delattr__ __getattribute__ __import__ __loader__ __spec__ __func__ "
    "__self__ __wrapped__ __annotations__ __reduce__ __reduce_ex__ __traceback__ __context__ mro cell_contents tb_frame "
    "tb_next f_globals f_locals f_builtins f_back gi_frame gi_code".split()
)
# Names of the standard library that look attributes up by a name that only shows when it runs.
LOOKUPS = frozenset({"attrgetter", "methodcaller"})
# What of the standard library live code may import. Everything else waits, does I/O, keeps hidden state, makes code or
# classes out of data, or holds modules that do.
LIBRARY = frozenset(
    "__future__ array base64 binascii bisect collections copy dataclasses enum fractions functools hashlib heapq hmac "
    "html ipaddress itertools json math numbers operator re statistics string struct textwrap types typing unicodedata "
    "urllib.parse zlib".split()
)
# And what of it not: it makes classes and functions, evaluates text, or is a loop in C that no signal reaches.
NOT_OF_LIBRARY = frozenset(
    "Formatter make_dataclass new_class FunctionType LambdaType CodeType MethodType ModuleType get_type_hints ForwardRef "
    "permutations combinations combinations_with_replacement product pbkdf2_hmac scrypt".split()
)
LONGEST_RANGE = 1 << 31
# Names between double underscores are called by the interpreter, at moments of its own and in the kernel's hands: to
# compare, to count, to print, to collect. Live code defines these alone, and __init__ in a class that is no record.
HARMLESS = frozenset({"__slots__", "__doc__", "__all__", "__match_args__"})
ENDLESS = frozenset({"count", "cycle", "repeat"})  # of itertools
# What ends with the shortest of its arguments, so that an endless one beside another is bounded.
ENDING = frozenset({"zip", "map", "islice"})

GOING_ON = (ast.While, ast.For, ast.With, ast.Try, ast.TryStar, ast.Call)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def check_live_source(
    module: str, text: str, path: Path | str = "", known: frozenset[str] = frozenset()
) -> None:
    """Raise PatchError unless `text` keeps the rules of live code.

    `known` are the modules of the release; if given, an import of any other live module is refused here
    instead of failing at import time.
    """
    where = path or f"{module}.py"
    tree = parse(where, text)
    for node, sentence in _broken(module, tree, known):
        raise error_at(where, text, node, sentence, "check")


def _broken(module: str, tree: ast.Module, known: frozenset[str]) -> Iterator[tuple[ast.AST, str]]:
    """(place, sentence) of everything in a module that breaks the law."""
    yield from _mutable_values(tree)
    top = {id(node) for node in tree.body}
    own = all_bound(tree)
    inits = {
        id(item) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for item in node.body
    }  # where an __init__ may stand
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        match node:
            case ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                yield node, "live code never awaits: answer with a command, such as Wake or Connect"
            case ast.Global() | ast.Nonlocal():
                yield node, "live code has no global variables: what lasts is in @state"
            case ast.Import() | ast.ImportFrom():
                if id(node) not in top:
                    yield node, "imports stand at the top of the file"
                for sentence in _bad_imports(module, node, known):
                    yield node, sentence
            case ast.Call(func=ast.Name(id=name)) if name in FORBIDDEN_CALLS:
                yield node, f"live code does not call {name}()"
            case ast.Name(id=name, ctx=ast.Load()) if name in FORBIDDEN_CALLS and name not in own:
                yield node, f"live code does not use {name}"
            case ast.Call(func=ast.Name(id="getattr"), args=[_, name, *_]) if not _plain_name(name):
                yield node, "live code does not look attributes up by a name that only shows when it runs"
            case ast.Call(func=ast.Name(id="iter"), args=[_, _]):
                yield node, "iter() of a function may never end where no watchdog reaches it; write a loop"
            case ast.arguments() if any(map(_mutable, (*node.defaults, *node.kw_defaults))):
                first = (node.posonlyargs + node.args + node.kwonlyargs)[0]
                yield first, "a mutable default argument is hidden state; use None or a tuple"
            case ast.FunctionDef() | ast.ClassDef():
                for item in node.decorator_list:
                    if _last_name(item) in CACHES:
                        yield item, "a cache is hidden state, and keeps old code alive; keep it in @state"
            case ast.Name(id="getattr", ctx=ast.Load()) if id(node) not in called and "getattr" not in own:
                yield (
                    node,
                    "live code does not pass getattr on: what is looked up would only show when it runs",
                )
            case ast.Attribute(attr=name) if name in REACHING | NOT_CAUGHT | LOOKUPS:
                yield node, f"live code does not reach for {name}"
            case ast.Attribute(attr=name) if name in FORBIDDEN and _in_library(node, tree):
                yield node, f"live code does not reach for {name}"
            case ast.MatchClass() if hidden := REACHING.intersection(node.kwd_attrs):
                yield node, f"live code does not reach for {min(hidden)}"
            case ast.Attribute(attr=name) if name in NOT_OF_LIBRARY and _in_library(node, tree):
                yield node, f"live code does not use {name}: {_instead(name)}"
            case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del()) if _dunder(name):
                yield node, f"live code does not change {name}: the interpreter would call it"
            case ast.Call(func=ast.Name(id="type"), args=given) if len(given) != 1:
                yield node, "live code does not make classes of data; write a class statement"
            case ast.Call(func=ast.Name(id="range"), args=given) if any(
                abs(number) > LONGEST_RANGE for number in map(_number, given)
            ):
                yield node, "a range of more than 2**31 never ends where no watchdog reaches it; bound it"
            case ast.ExceptHandler(type=None):
                yield node, "a bare except would swallow the watchdog's call; name what may be raised"
            case ast.Name(id=name, ctx=ast.Load()) if name in NOT_CAUGHT:
                yield node, f"live code neither raises nor catches {name}: it ends the step or the server"
            case ast.Try() | ast.TryStar():
                for leaving in _leaving(node.finalbody):
                    word = type(leaving).__name__.lower()
                    yield (
                        leaving,
                        f"{word} in a finally swallows whatever was raised, the watchdog's call too",
                    )
                for going in _going_on(node.finalbody):
                    yield (
                        going,
                        "a finally runs on after the watchdog's call: no loop and no call there",
                    )
            case _:
                pass
        for name in _names_bound_by(node):
            if _dunder(name) and name not in HARMLESS and not (name == "__init__" and id(node) in inits):
                yield node, f"live code defines no {name}: nothing would show when it runs"
    yield from _classes(tree)
    yield from _endless(tree)
    yield from _changes_of_shared(tree)


# ---- imports -------------------------------------------------------------------------------------------------


def _bad_imports(module: str, node: ast.Import | ast.ImportFrom, known: frozenset[str]) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.level:
        yield f"write the full name: from {PACKAGE}. ..."
        return
    names = [item.name for item in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for name in names:
        root = name.partition(".")[0]
        if root in FORBIDDEN - {"urllib"} or (root.startswith("_") and root != "__future__"):
            yield f"live code may not import {name}: I/O, time, logging and randomness are commands or come with the event"
        elif (
            root == "streamd"
            and name not in KERNEL
            and name != PACKAGE
            and not name.startswith(PACKAGE + ".")
        ):
            yield f"live code may not import {name}; of the kernel only {' and '.join(sorted(KERNEL))}"
        elif root != "streamd" and root not in sys.stdlib_module_names:
            yield f"live code may not import {name}: it has the standard library and streamd.live only"
        elif root != "streamd" and root not in LIBRARY and name not in LIBRARY:
            yield f"live code may not import {name}; of the standard library only {', '.join(sorted(LIBRARY))}"
        elif isinstance(node, ast.ImportFrom) and (root != "streamd" or name in KERNEL):
            for item in node.names:
                hidden = item.name.startswith("_") or item.name in sys.stdlib_module_names
                refused = FORBIDDEN | LOOKUPS | NOT_OF_LIBRARY
                if item.name in refused or (name in KERNEL and hidden):
                    yield f"live code may not import {item.name} from {name}"
        elif isinstance(node, ast.Import) and root == "streamd":
            yield f"write: from {name.rpartition('.')[0]} import {name.rpartition('.')[2]}"
    wanted = live_imports(node)
    if wanted:
        short = wanted[0][0]
        allowed = MAY_IMPORT.get(module.partition(".")[0], ("",))
        bad = [name for _, name in wanted if not f"{short}.{name}".strip(".").startswith(allowed)]
        if bad:
            name = f"{PACKAGE}.{short}".strip(".")
            yield f"{module} may not import {', '.join(bad)} from {name}: only {', '.join(allowed)}"
        elif known and short not in known:
            yield f"there is no live module {short}"


def _in_library(node: ast.Attribute, tree: ast.Module) -> bool:
    """True where an attribute belongs, at whatever depth, to something imported from the standard library."""
    root = _root(node)
    return isinstance(root, ast.Name) and any(
        root.id in _names_bound_by(item)
        for item in tree.body
        if isinstance(item, ast.Import | ast.ImportFrom) and not live_imports(item)
    )


# ---- values that would be hidden state -----------------------------------------------------------------------


def _mutable_values(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for statement in (*tree.body, *(item for cls in classes for item in cls.body)):
        if isinstance(statement, ast.Assign | ast.AnnAssign) and _mutable(statement.value):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = ", ".join(map(ast.unparse, targets))
            yield (
                statement,
                f"{names} is a mutable value at module level; use a tuple, frozenset or MappingProxyType",
            )


def _mutable(value: ast.expr | None) -> bool:
    match value:
        case (
            ast.List()
            | ast.Dict()
            | ast.Set()
            | ast.ListComp()
            | ast.DictComp()
            | ast.SetComp()
            | ast.GeneratorExp()
        ):
            return True
        case ast.Call():
            return _last_name(value) in MUTABLE_CALLS
        case ast.Tuple():
            return any(map(_mutable, value.elts))
        case _:
            return False


# ---- classes -------------------------------------------------------------------------------------------------


def _classes(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Records that are more than data, and classes that are made by something else than a class statement."""
    records = {"state"} | {
        item.asname or item.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "streamd.runtime.state"
        for item in node.names
        if item.name == "state"
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for keyword in node.keywords:
            if keyword.arg != "total":  # of a TypedDict
                yield keyword.value, "live code has no metaclasses: nothing would show when they run"
        if not records.intersection(map(_last_name, node.decorator_list)):
            continue
        if len(node.decorator_list) > 1:
            yield node.decorator_list[1], f"{node.name} is a record: @state is its only decorator"
        for base in node.bases:
            yield base, f"{node.name} is a record: it has fields of its own and inherits nothing"
        for item in node.body:
            match item:
                case ast.AnnAssign(target=ast.Name()) | ast.Pass() | ast.Expr(value=ast.Constant()):
                    pass
                case ast.FunctionDef():
                    yield item, f"{node.name} is a record: it has fields only; write a function beside it"
                case _:
                    yield item, f"{node.name} is a record: it has fields only, each with its type"


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


# ---- what could not be interrupted ---------------------------------------------------------------------------


def _instead(name: str) -> str:
    if name in ("permutations", "combinations", "combinations_with_replacement", "product"):
        return "it may never end where no watchdog reaches it; write the loops"
    return "it makes code of data, or takes time where no watchdog reaches it"


def _number(node: ast.expr) -> int:
    """What an expression of whole numbers comes to, as far as that matters; 0 for anything else."""
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(operand)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _number(left) * _number(right)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return int(_number(left) ** min(max(_number(right), 0), 64))
        case ast.BinOp(left=left, op=ast.LShift(), right=right):
            return _number(left) << min(max(_number(right), 0), 64)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _number(left) + _number(right)
    return 0


def _going_on(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Loops and calls in a `finally`."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, GOING_ON):
                yield node


def _leaving(body: list[ast.stmt], in_loop: bool = False) -> Iterator[ast.stmt]:
    """The statements that leave a `finally` for elsewhere."""
    for node in body:
        if isinstance(node, ast.Return) or (isinstance(node, ast.Break | ast.Continue) and not in_loop):
            yield node
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            loop = isinstance(node, ast.For | ast.While | ast.AsyncFor)
            for name, inner in ast.iter_fields(node):
                if name in ("body", "orelse", "finalbody"):
                    # the else of a loop is outside of it
                    yield from _leaving(inner, in_loop or (loop and name == "body"))
                elif name in ("handlers", "cases"):
                    for one in inner:
                        yield from _leaving(one.body, in_loop)


def _endless(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Iterators of itertools without an end: one that is used up inside the interpreter hangs where nobody can help."""
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        item.asname or item.name: item.name
        for node in imports
        if isinstance(node, ast.ImportFrom) and node.module == "itertools"
        for item in node.names
        if item.name in ENDLESS
    }
    modules = {
        item.asname or item.name for node in imports for item in node.names if item.name == "itertools"
    }

    def endless(node: ast.AST) -> bool:
        match node:
            case ast.Call(func=ast.Name(id=name)):
                name = names.get(name, "")
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=name)) if module in modules:
                pass
            case _:
                return False
        bounded = len(node.args) > 1 or any(item.arg == "times" for item in node.keywords)
        return name in ENDLESS and not (name == "repeat" and bounded)

    ended = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _last_name(node) in ENDING:
            over = node.args[_last_name(node) == "map" :]  # all but the function
            if not all(map(endless, over)):
                ended |= set(map(id, over))
    for node in ast.walk(tree):
        if endless(node) and id(node) not in ended:
            assert isinstance(node, ast.Call)
            yield node, f"{ast.unparse(node.func)}() never ends; bound it with range, zip or islice"


# ---- what belongs to all sessions ----------------------------------------------------------------------------


def _changes_of_shared(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Assignments to, or deletions of, attributes and items of what is imported or defined at module level."""
    shared = {
        name for node in tree.body for item in _outside_functions(node) for name in _names_bound_by(item)
    }
    yield from _changes(tree, shared, frozenset())


def _changes(node: ast.AST, shared: set[str], local: frozenset[str]) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        inside = local
        ours = shared
        if isinstance(child, (*FUNCTIONS, *COMPREHENSIONS)):
            inside, ours = local | _locals(child), shared | _class_given_to(child)
        if isinstance(child, ast.Attribute | ast.Subscript) and isinstance(child.ctx, ast.Store | ast.Del):
            root = _root(child)
            if isinstance(root, ast.Name) and root.id in shared and root.id not in local:
                yield (
                    child,
                    f"{root.id} belongs to every session; live code changes nothing but its own state",
                )
            elif isinstance(root, ast.Call) and _last_name(root) == "type":
                yield child, "a class belongs to every session; live code changes nothing but its own state"
        yield from _changes(child, ours, inside)


def _root(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node


def _locals(scope: ast.AST) -> frozenset[str]:
    """The names that a function or a comprehension binds for itself; those of a class body no function sees."""
    names: set[str] = set()
    body: list[ast.AST] = []
    if isinstance(scope, FUNCTIONS):
        given = scope.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        names = {item.arg for item in every if item is not None} - _class_given_to(scope)
        body += [scope.body] if isinstance(scope, ast.Lambda) else scope.body
    elif isinstance(scope, COMPREHENSIONS):
        body += [item.target for item in scope.generators]
    inside = [node for part in body for node in _outside_functions(part)]
    return frozenset(names.union(*map(_names_bound_by, inside)))


def _class_given_to(scope: ast.AST) -> set[str]:
    """The first argument of a class method, which is the class."""
    if isinstance(scope, ast.FunctionDef) and "classmethod" in map(_last_name, scope.decorator_list):
        return {item.arg for item in (scope.args.posonlyargs + scope.args.args)[:1]}
    return set()


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all in it that runs in the same scope."""
    yield node
    if not isinstance(node, (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)):
        for child in ast.iter_child_nodes(node):
            yield from _outside_functions(child)


def _names_bound_by(node: ast.AST) -> list[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return [name]
        case ast.MatchMapping(rest=str(name)):
            return [name]
        case ast.Import() | ast.ImportFrom():
            return [(item.asname or item.name).partition(".")[0] for item in node.names]
        case _:
            return []


def all_bound(tree: ast.Module) -> frozenset[str]:
    """Every name that a module binds anywhere, arguments included."""
    nodes = list(ast.walk(tree))
    return frozenset(name for node in nodes for name in _names_bound_by(node)) | {
        node.arg for node in nodes if isinstance(node, ast.arg)
    }


def _plain_name(node: ast.expr) -> bool:
    """True for a literal name that is no way into the interpreter's own."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and not node.value.startswith("__")


def _last_name(node: ast.expr) -> str:
    match node:
        case ast.Call():
            return _last_name(node.func)
        case ast.Attribute():
            return node.attr
        case ast.Name():
            return node.id
        case _:
            return ""
