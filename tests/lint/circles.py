#!/usr/bin/env python3
"""Finds files under src that import each other in a circle, and fails on one.

An import is a `use` or a path in the code that leads to an item of another file, through re-exports to the file that
defines it. Left out: code under #[cfg(test)], files of tests, and a file's use of the module that it is a direct part of
(`child.rs` of its `mod.rs`).

  circles.py [ROOT]   ROOT is the directory with lib.rs (src)
"""

import re
import sys
from pathlib import Path

TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)
      | (?P<string>b?r(?P<hash>\#*)".*?"(?P=hash)|b?c?"(?:\\.|[^"\\])*"|b?'(?:\\(?:u\{[^}]*\}|.)[^']*|[^'\\])')
      | (?P<lifetime>'[A-Za-z_]\w*)
      | (?P<name>(?:r\#)?[A-Za-z_]\w*)
      | (?P<colons>::)
      | (?P<other>.)""",
    re.X | re.S,
)
CLOSES = {"(": ")", "[": "]", "{": "}"}


def tokens(text):
    """The tokens of a file without comments; strings and numbers as they stand, lifetimes left out."""
    found = []
    for match in TOKEN.finditer(text):
        if match.lastgroup in ("skip", "lifetime") or match.group("skip") or match.group("lifetime"):
            continue
        found.append(match.group(0))
    return found


def end_of_group(toks, at):
    """The index after the bracket that closes the one at `at`."""
    stack = [CLOSES[toks[at]]]
    at += 1
    while stack and at < len(toks):
        if toks[at] in CLOSES:
            stack.append(CLOSES[toks[at]])
        elif toks[at] == stack[-1]:
            stack.pop()
        at += 1
    return at


def end_of_item(toks, at):
    """The index after the item, statement or field that begins at `at`: at its `;` or `,`, or after its braces."""
    while at < len(toks):
        if toks[at] in ("(", "["):
            at = end_of_group(toks, at)
        elif toks[at] == "{":
            at = end_of_group(toks, at)
            # `use a::{b, c};` and `let x = {..};` end later; an item with a body ends here.
            return at + 1 if at < len(toks) and toks[at] == ";" else at
        elif toks[at] in (";", ","):
            return at + 1
        elif toks[at] == "}":
            return at
        else:
            at += 1
    return at


def is_test_attribute(attribute):
    """Returns true for #[cfg(test)], #[cfg(all(test, ..))] and #[test]; not for cfg(not(test))."""
    if attribute[:1] == ["test"]:
        return True
    return attribute[:2] == ["cfg", "("] and "test" in attribute and "not" not in attribute


def without_tests(toks):
    """The tokens without items that exist for tests only, and without attributes."""
    kept, at = [], 0
    while at < len(toks):
        if toks[at] == "#" and at + 1 < len(toks) and toks[at + 1] == "[":
            end = end_of_group(toks, at + 1)
            attribute = toks[at + 2 : end - 1]
            at = end
            if is_test_attribute(attribute):
                while at < len(toks) and toks[at] == "#":
                    at = end_of_group(toks, at + 1)
                at = end_of_item(toks, at)
        elif toks[at] == "#" and toks[at + 1 : at + 3] == ["!", "["]:
            at = end_of_group(toks, at + 2)
        else:
            kept.append(toks[at])
            at += 1
    return kept


def use_tree(toks, at, prefix):
    """The leaves of a use tree: [(path, name it gets here)], and the index after it."""
    leaves, path = [], list(prefix)
    while at < len(toks):
        tok = toks[at]
        if tok == "::":
            at += 1
        elif tok == "{":
            at += 1
            while toks[at] != "}":
                inner, at = use_tree(toks, at, path)
                leaves += inner
                if toks[at] == ",":
                    at += 1
            return leaves, at + 1
        elif tok == "*":
            return leaves + [(path + ["*"], "*")], at + 1
        elif tok == "as":
            return leaves + [(path, toks[at + 1])], at + 2
        elif tok in (",", "}", ";"):
            break
        else:
            path.append(tok.removeprefix("r#"))
            at += 1
    if path and path[-1] == "self":
        path.pop()
    return leaves + [(path, path[-1] if path else "")], at


class Module:
    """A module: its path in the crate, its file, what it declares and imports."""

    def __init__(self, path, file):
        self.path, self.file = path, file
        self.children, self.imports, self.globs, self.paths = {}, {}, [], []
        self.public = set()


class Crate:
    def __init__(self, root):
        self.root, self.modules = root, {}
        self.load((), root / "lib.rs")

    def load(self, path, file):
        module = self.modules[path] = Module(path, file)
        self.read(module, without_tests(tokens(file.read_text())))

    def read(self, module, toks):
        at, depth = 0, 0
        while at < len(toks):
            tok = toks[at]
            if tok == "mod" and at + 2 < len(toks) and toks[at + 2] in (";", "{"):
                name = toks[at + 1].removeprefix("r#")
                child = module.path + (name,)
                module.children[name] = child
                if toks[at + 2] == ";":
                    self.load(child, self.file_of(module, name))
                    at += 3
                    continue
                end = end_of_group(toks, at + 2)
                inner = self.modules[child] = Module(child, module.file)
                self.read(inner, toks[at + 3 : end - 1])
                at = end
                continue
            # `use<'a>` in a type is no import.
            if tok == "use" and toks[at + 1] != "<":
                leaves, at = use_tree(toks, at + 1, [])
                for path, name in leaves:
                    if name == "*":
                        module.globs.append(path[:-1])
                    elif path:
                        module.imports[name] = path
                    module.paths.append(path[:-1] if name == "*" else path)
                continue
            if re.match(r"(r#)?[A-Za-z_]", tok) and (at == 0 or toks[at - 1] != "::"):
                path = [tok.removeprefix("r#")]
                while at + 2 < len(toks) and toks[at + 1] == "::" and re.match(r"[A-Za-z_]", toks[at + 2]):
                    path.append(toks[at + 2].removeprefix("r#"))
                    at += 2
                if len(path) > 1:
                    module.paths.append(path)
            at += 1

    def file_of(self, module, name):
        """Where `mod name;` of a module has its file."""
        file = module.file
        home = file.parent if file.name in ("mod.rs", "lib.rs") else file.with_suffix("")
        for candidate in (home / f"{name}.rs", home / name / "mod.rs"):
            if candidate.exists():
                return candidate
        sys.exit(f"{file}: no file for mod {name}")

    def resolve(self, module, path, seen=frozenset()):
        """The file that defines what a path of a module names, or None where it is of another crate."""
        if not path or (module.path, tuple(path)) in seen:
            return None
        seen = seen | {(module.path, tuple(path))}
        first, rest = path[0], path[1:]
        if first == "crate":
            return self.inside((), rest, seen)
        if first == "self":
            return self.inside(module.path, rest, seen)
        if first == "super":
            return self.inside(module.path[:-1], rest, seen)
        if first in module.children:
            return self.inside(module.children[first], rest, seen)
        # `use log::log` is of the crate `log`.
        if first in module.imports and module.imports[first][0] != first:
            return self.resolve(module, module.imports[first] + rest, seen)
        return None

    def inside(self, at, rest, seen):
        """The file that defines `rest` within the module at `at`, through its re-exports."""
        module = self.modules[at]
        if not rest:
            return module.file
        name = rest[0]
        if name == "super":
            return self.inside(at[:-1], rest[1:], seen)
        if name in module.children:
            return self.inside(module.children[name], rest[1:], seen)
        if name in module.imports and module.imports[name][0] != name:
            return self.resolve(module, module.imports[name] + rest[1:], seen) or module.file
        for glob in module.globs:
            target = self.module_of(module, glob)
            if target is not None and target != at:
                found = self.modules[target]
                if name in found.children or name in found.imports:
                    return self.inside(target, rest, seen)
        return module.file

    def module_of(self, module, path):
        at = module.path
        for step in path:
            if step == "crate":
                at = ()
            elif step == "super":
                at = at[:-1]
            elif step != "self":
                at = self.modules[at].children.get(step) if at in self.modules else None
                if at is None:
                    return None
        return at

    def parent_file(self, file):
        """The file of the module that this one is a direct part of."""
        for path, module in self.modules.items():
            if module.file == file and path:
                outer = self.modules[path[:-1]].file
                if outer != file:
                    return outer
        return None

    def imports(self):
        """{file: {file it imports: a path that does}}"""
        edges = {}
        parents = {module.file: self.parent_file(module.file) for module in self.modules.values()}
        for module in self.modules.values():
            mine = edges.setdefault(module.file, {})
            for path in module.paths:
                target = self.resolve(module, path)
                if target is None or target in (module.file, parents[module.file]):
                    continue
                mine.setdefault(target, "::".join(path))
        return edges


def rings(edges):
    """The strongly connected components with more than one file (Tarjan)."""
    index, low, stack, on, found = {}, {}, [], set(), []
    sys.setrecursionlimit(10_000)

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        on.add(node)
        for next_ in edges.get(node, ()):
            if next_ not in index:
                visit(next_)
                low[node] = min(low[node], low[next_])
            elif next_ in on:
                low[node] = min(low[node], index[next_])
        if low[node] == index[node]:
            ring = []
            while True:
                member = stack.pop()
                on.discard(member)
                ring.append(member)
                if member == node:
                    break
            if len(ring) > 1:
                found.append(sorted(ring))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return sorted(found)


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "src")
    crate = Crate(root)
    edges = crate.imports()
    found = rings(edges)
    for ring in found:
        print("files that import each other in a circle:", file=sys.stderr)
        for file in ring:
            for target, path in sorted(edges[file].items()):
                if target in ring:
                    print(f"  {file.relative_to(root)} -> {target.relative_to(root)} ({path})", file=sys.stderr)
    if found:
        sys.exit(1)
    print(f"circles: none among {len(edges)} files")


if __name__ == "__main__":
    main()
