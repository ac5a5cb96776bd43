#!/usr/bin/env bash
# Checks every #include of src, tests, bench and fuzz against the table of allowed edges in
# src/layers.txt, and that docs/architecture.md shows that table. Run by ctest. With --table it
# prints the edges of src as the page shows them.
set -euo pipefail
cd "$(dirname "$0")/.."

includes() {
  grep -rHE --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' '^ *# *include [<"]' "$@" |
    sed -E 's/^([^:]*): *# *include *[<"]([^">]*)[">].*/\1 \2/'
}

# Prints what is wrong, one line each; nothing when all is well.
check() {
  { sed 's/^/T /' src/layers.txt
    sed 's/^/D /' docs/architecture.md
    includes src tests bench fuzz | sed 's/^/I /'
  } | awk -v show="${1:-}" '
    # The nearest folder (or file) at or above `path` that has a line of `root`.
    function room_of(root, path) {
      while (1) {
        if ((root, path) in allowed) return path
        if (path !~ /\//) break
        sub(/\/[^\/]*$/, "", path)
      }
      return (root, ".") in allowed ? "." : ""
    }
    function exists(path,   line) { if ((getline line < path) >= 0) { close(path); return 1 } return 0 }
    # Whether `list` (words of the table) names `room`.
    function named(list, room,   n, words, i, stem) {
      n = split(list, words, " ")
      for (i = 1; i <= n; i++) {
        if (words[i] == room) return 1
        if (words[i] ~ /\/\*$/) {
          stem = substr(words[i], 1, length(words[i]) - 2)
          if (room == stem || index(room, stem "/") == 1) return 1
        }
      }
      return 0
    }
    function complain(text) { if (!(text in said)) print text; said[text] = 1 }

    $1 == "T" {
      sub(/^T ?/, "")
      if (/^#/ || /^$/) next
      if (/^\[/) { root = substr($0, 2, length($0) - 2); next }
      at = index($0, ":")
      name = substr($0, 1, at - 1)
      edges = substr($0, at + 2)
      allowed[root, name] = edges
      if (root == "src") { order[++rooms] = name; row[name] = edges }
      next
    }
    # A row of the page: | `folder/` | what it holds | may include |
    $1 == "D" {
      sub(/^D ?/, "")
      n = split($0, cells, "|")
      if (n != 5 || cells[2] !~ /^ `[a-z_\/.]+` $/) next
      name = cells[2]
      gsub(/[ `]|\/`? *$/, "", name)
      gsub(/^ +| +$/, "", cells[4])
      shown[name] = cells[4] == "-" ? "" : cells[4]
      next
    }
    $1 == "I" {
      file = $2; target = $3
      root = file; sub(/\/.*/, "", root)
      path = substr(file, length(root) + 2)
      if (target ~ /^(cuda|cublas|cufft|cub\/|thrust\/|cooperative_groups|nccl)/) to = "cuda"
      else if (target ~ /^mpi\.h/) to = "mpi"
      else if (exists("src/" target)) to = room_of("src", target)
      else if (exists("tests/" target)) { to = target; sub(/\/[^\/]*$/, "", to); to = "tests/" to }
      else next  # a header of a library, or of the same folder
      if (root == "tests") {
        folder = path; sub(/\/.*/, "", folder)
        from = "tests/" folder
        list = allowed["tests", folder] " tests/support " folder "/* " from
        for (i = 1; i <= rooms; i++)
          if (order[i] == folder || index(order[i], folder "/") == 1) list = list " " row[order[i]]
      } else {
        from = room_of(root, path)
        if (from == "") { complain(file ": its folder has no line in src/layers.txt"); next }
        list = allowed[root, from]
        if (root == "src") {
          self = room_of("src", path)
          if (self ~ /\.[a-z]+$/) { folder = path; sub(/\/[^\/]*$/, "", folder); self = room_of("src", folder) }
          list = list " " self
        }
      }
      if (to == "") complain(target ": its folder has no line in src/layers.txt")
      else if (!named(list, to))
        complain(file " includes " target ": src/layers.txt does not let " (from == "." ? root : from) " include " to)
      next
    }
    END {
      for (i = 1; i <= rooms; i++) {
        name = order[i]
        edges = row[name]
        if (show != "") { printf "| `%s` | | %s |\n", name ~ /\./ ? name : name "/", edges == "" ? "-" : edges; continue }
        if (!(name in shown)) complain("docs/architecture.md: no row for " name)
        else if (shown[name] != edges)
          complain("docs/architecture.md: " name " may include \"" shown[name] "\", src/layers.txt says \"" edges "\"")
      }
      if (show == "") for (name in shown) if (!(name in row)) complain("docs/architecture.md: " name " has no line in src/layers.txt")
    }'
}

if [ "${1:-}" = --table ]; then
  check table | grep '^|'
  exit
fi
problems=$(check)
[ -z "$problems" ] || { echo "$problems"; exit 1; }
