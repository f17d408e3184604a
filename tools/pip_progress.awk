# What pip says, in few lines: each package that is fetched, large ones with their size, and what takes minutes.
# known: how many packages constraints.txt names, for some idea of how many are to come.
function say(text) { printf "penstock:   %s\n", text; fflush() }

/^ *Collecting / {
  name = $2; sub(/[^A-Za-z0-9_.-].*/, "", name); sub(/==.*/, "", name)
  fetched += 1
  if (fetched % 10 == 1) say("package " fetched " of at most " known ": " name)
}
/^ *Downloading .* [(][0-9.]+ [MG]B[)]/ {
  size = $0; sub(/.*[(]/, "", size); sub(/[)].*/, "", size)
  split(size, parts, " ")
  if (parts[2] == "GB" || parts[1] >= 20) say("fetching " name ", " size)
}
/^ *Building editable .*: started/ { say("compiling the native module, which takes a minute or some") }
/: still running/ { say("still compiling") }
/^ *Installing collected packages/ && fetched { say("installing " fetched " packages") }
