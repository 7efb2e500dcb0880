"""The one write: looks whether everything still is as it was read, and only then writes all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# KEYS: logs of entities, then what is remembered of events.
# ARGV: how many are logs, seconds that logs and events live, a letter a log, the versions of the logs
# (8 bytes each), a letter an event, the heads of the events (2 bytes each), then what to write for each key.
# Letters of logs: k only looked at, a appended to, x appended to and given its time anew, s replaced,
# l appended to where it is there, whatever its version. Letters of events: p put, h only its head replaced.
SOURCE = """
local call, sub = redis.call, string.sub
local n, log_s, event_s = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local of_logs, versions, of_events, heads = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local none, absent, stale, there = string.rep('\\0', 8), '\\0\\0', {}, {}
for i = 1, n do
  local found = call('GETRANGE', KEYS[i], -8, -1)
  if sub(of_logs, i, i) == 'l' then
    there[i] = found ~= ''
  else
    if found == '' then found = none end
    if found ~= sub(versions, 8 * i - 7, 8 * i) then stale[#stale + 1] = i end
  end
end
local first = n + 1
if not string.find(heads, '[^%z]') then  -- as a rule no event is known, and one call for many is enough
  while first <= #KEYS do
    local last = math.min(first + 999, #KEYS)
    if call('EXISTS', unpack(KEYS, first, last)) > 0 then break end
    first = last + 1
  end
end
for i = first, #KEYS do
  local found = call('GETRANGE', KEYS[i], 0, 1)
  if found == '' then found = absent end
  if found ~= sub(heads, 2 * (i - n) - 1, 2 * (i - n)) then stale[#stale + 1] = i end
end
if #stale > 0 then return stale end
for i = 1, n do
  local how = sub(of_logs, i, i)
  if how == 's' then
    call('SET', KEYS[i], ARGV[i + 7], 'EX', log_s)
  elseif how ~= 'k' and there[i] ~= false then
    call('APPEND', KEYS[i], ARGV[i + 7])
    if how == 'x' then call('EXPIRE', KEYS[i], log_s) end
  end
end
for i = n + 1, #KEYS do
  if sub(of_events, i - n, i - n) == 'p' then
    call('SET', KEYS[i], ARGV[i + 7], 'EX', event_s)
  else
    call('SETRANGE', KEYS[i], 0, ARGV[i + 7])
  end
end
return stale
"""


# KEYS: logs. ARGV: their versions, 8 bytes each. Gives the place of each log that has another one, and what it is now.
LOOK = """
local none, stale = string.rep('\\0', 8), {}
for i = 1, #KEYS do
  local found = redis.call('GETRANGE', KEYS[i], -8, -1)
  if found == '' then found = none end
  if found ~= string.sub(ARGV[1], 8 * i - 7, 8 * i) then
    stale[#stale + 1] = i
    stale[#stale + 1] = redis.call('GET', KEYS[i])
  end
end
return stale
"""


class Write(NamedTuple):
    """What a commit does with one key."""

    bucket: int
    key: bytes
    how: str
    before: bytes
    payload: bytes
    row: int  # of what is loaded; -1 where that is not concerned


def command(script: str, writes: Sequence[Write], log_s: int, event_s: int) -> tuple[bytes | str | int, ...]:
    """The words of one call of the script.

    Args:
        script: its name on the server.
        log_s: how long logs live.
        event_s: how long events are remembered.
    """
    logs = [write for write in writes if write.how in "kaxsl"]
    events = [write for write in writes if write.how in "ph"]
    return (
        "EVALSHA",
        script,
        len(writes),
        *[write.key for write in logs],
        *[write.key for write in events],
        len(logs),
        log_s,
        event_s,
        "".join([write.how for write in logs]),
        b"".join([write.before for write in logs]),
        "".join([write.how for write in events]),
        b"".join([write.before for write in events]),
        *[write.payload for write in logs],
        *[write.payload for write in events],
    )
