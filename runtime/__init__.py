"""The actor core; it knows nothing of KV. Import from its modules, which depend on each other left
to right.

`errors` and `message` say what is said; `deadline` how long it may take; `mailbox` bounds what
waits; `ref` is the handle one holds; `actor` and `service` what answers, `supervisor` who restarts
it. `hazard` names the moments a test may stretch, `watchdog` the steps that took too long,
`telemetry` and `log` what an operator sees, `config` what an operator says. `sim_loop` runs all of
it on virtual time, in an order drawn from a seed.
"""
