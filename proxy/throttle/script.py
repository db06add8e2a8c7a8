"""The limits' arithmetic in Lua: one script decides all charges of a request at once, another settles reservations.

The store's clock rules (TIME), so a pod whose clock is wrong changes nothing. Every key has an expiry. A key's value is
a string of numbers (`FIXED`: count and end of the window; `SLIDING`: window index, count, count before; `BUCKET`: the
theoretical arrival time of GCRA) or, for `MOVING`, a list of times; its second key, a sorted set, holds reservations
by the end of their lease. Strategies are numbered as `charge.Strategy`.
"""

_COMMON = """
local FIXED, MOVING, SLIDING, BUCKET, CONCURRENT = 1, 2, 3, 4, 5
local now = tonumber(ARGV[1])
if now < 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + time[2] / 1000
end
local reservation = ARGV[2]

local function charge(at)
  return tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]),
    tonumber(ARGV[at + 4])
end

local function numbers(key)
  local found = {}
  local text = redis.call('GET', key)
  if text then
    for number in string.gmatch(text, '%S+') do found[#found + 1] = tonumber(number) end
  end
  return found
end

local function seen(key, window)
  local count, list = 0, redis.call('LRANGE', key, 0, -1)
  for i = 1, #list do
    if tonumber(list[i]) > now - window then return i - 1, list end
  end
  return #list, list
end

local function sliding(key, window)
  local state = numbers(key)
  local index, count, before = math.floor(now / window), state[2] or 0, state[3] or 0
  if state[1] ~= index then
    before = state[1] == index - 1 and count or 0
    count = 0
  end
  return index, count, before
end

local function text(number) return string.format('%.0f', number) end

local function take(kind, key, amount, window, cost)
  if kind == FIXED then
    local state = numbers(key)
    local count, ends = state[1] or 0, state[2] or 0
    if count == 0 or now >= ends then count, ends = 0, now + window end
    redis.call('SET', key, text(count + cost) .. ' ' .. string.format('%.3f', ends),
      'PX', math.max(1, math.ceil(ends - now)))
  elseif kind == MOVING then
    local old = seen(key, window)
    if old > 0 then redis.call('LTRIM', key, old, -1) end
    local stamp = string.format('%.3f', now)
    for _ = 1, cost do redis.call('RPUSH', key, stamp) end
    redis.call('PEXPIRE', key, window)
  elseif kind == SLIDING then
    local index, count, before = sliding(key, window)
    redis.call('SET', key, text(index) .. ' ' .. text(count + cost) .. ' ' .. text(before), 'PX', 2 * window)
  elseif kind == BUCKET then
    local tat = math.max(numbers(key)[1] or 0, now) + cost * window / amount
    redis.call('SET', key, string.format('%.3f', tat), 'PX', math.max(1, math.ceil(tat - now)))
  end
end
"""

DECIDE = (
    _COMMON
    + """
local function look(kind, key, amount, window, cost, held)
  local want = cost + held
  if kind == FIXED then
    local state = numbers(key)
    local count, ends = state[1] or 0, state[2] or 0
    if now >= ends then count = 0 end
    local left = count > 0 and math.ceil(ends - now) or window
    if count + want <= amount then return 1, amount - held - count, left, 0 end
    return 0, amount - held - count, left, left
  elseif kind == MOVING then
    local old, list = seen(key, window)
    local used = #list - old
    local reset = used > 0 and math.ceil(tonumber(list[old + 1]) + window - now) or window
    if used + want <= amount then return 1, amount - held - used, reset, 0 end
    local freeing, retry = used + want - amount, window
    if freeing <= used then retry = math.ceil(tonumber(list[old + freeing]) + window - now) end
    return 0, amount - held - used, reset, retry
  elseif kind == SLIDING then
    local index, count, before = sliding(key, window)
    local elapsed = now - index * window
    local weighted = math.ceil(before * (window - elapsed) / window - 0.000001) + count
    local reset = math.ceil(window - elapsed)
    if weighted + want <= amount then return 1, amount - held - weighted, reset, 0 end
    local room, retry = amount - want - count, 0
    if room >= 0 then
      retry = math.ceil(window * (1 - room / before) - elapsed) + 1
    elseif want > amount then
      retry = window
    else
      retry = math.ceil(window - elapsed + math.max(0, window * (1 - (amount - want) / count))) + 1
    end
    return 0, amount - held - weighted, reset, math.max(1, retry)
  elseif kind == BUCKET then
    local step = window / amount
    local tat = math.max(numbers(key)[1] or 0, now)
    local wait = tat + want * step - window - now
    local remaining = math.floor((now + window - tat) / step + 0.001) - held
    if wait <= 0.001 then return 1, remaining, math.ceil(tat + cost * step - now), 0 end
    return 0, remaining, math.ceil(tat - now), math.ceil(wait)
  end
  if want <= amount then return 1, amount - held, 0, 0 end
  return 0, amount - held, 0, 1000
end

local admitted, answer, fits = 1, {1}, {}
for i = 1, #KEYS / 2 do
  local at = 3 + (i - 1) * 6
  local kind, amount, window, cost, flags = charge(at)
  local held = 0
  if flags % 2 == 1 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2 * i], '-inf', string.format('%.3f', now))
    held = redis.call('ZCARD', KEYS[2 * i])
  end
  local fit, remaining, reset, retry = look(kind, KEYS[2 * i - 1], amount, window, cost, held)
  fits[i] = fit
  if fit == 0 and flags < 2 then admitted = 0 end
  answer[#answer + 1] = fit
  answer[#answer + 1] = math.max(0, remaining)
  answer[#answer + 1] = math.max(0, reset)
  answer[#answer + 1] = retry
end
answer[1] = admitted
if admitted == 1 then
  for i = 1, #KEYS / 2 do
    local at = 3 + (i - 1) * 6
    if fits[i] == 1 then
      if tonumber(ARGV[at + 4]) % 2 == 1 then
        local lease = tonumber(ARGV[at + 5])
        local _, _, _, cost = charge(at)
        for unit = 1, cost do
          redis.call('ZADD', KEYS[2 * i], string.format('%.3f', now + lease), reservation .. ':' .. unit)
        end
        redis.call('PEXPIRE', KEYS[2 * i], lease)
      else
        local kind, amount, window, cost = charge(at)
        take(kind, KEYS[2 * i - 1], amount, window, cost)
      end
    end
  end
end
return answer
"""
)
"""KEYS: for each charge its counter and its reservations. ARGV: now in milliseconds (-1: the store's clock), the
reservation's name, then for each charge strategy, amount, window, cost, flags (1 holds, 2 shadow), lease.
Answers 1 or 0 for all, then for each charge fits, remaining, reset, retry."""

RENEW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
for i = 1, #KEYS do
  local cost, lease = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  for unit = 1, cost do
    redis.call('ZADD', KEYS[i], string.format('%.3f', now + lease), ARGV[1] .. ':' .. unit)
  end
  if redis.call('PTTL', KEYS[i]) < lease then redis.call('PEXPIRE', KEYS[i], lease) end
end
return 1
"""
"""KEYS: the reservations of each charge. ARGV: the reservation's name, then for each charge cost and lease."""

SETTLE = (
    _COMMON
    + """
local merge = ARGV[3] == 'merge'
for i = 1, #KEYS / 2 do
  local kind, amount, window, cost, taken = charge(4 + (i - 1) * 5)
  local held = 0
  if merge then
    if redis.call('SET', KEYS[2 * i], '', 'NX', 'PX', 600000) then held = 1 end
  else
    for unit = 1, cost do held = held + redis.call('ZREM', KEYS[2 * i], reservation .. ':' .. unit) end
  end
  if held > 0 and taken > 0 then
    take(kind, KEYS[2 * i - 1], amount, window, taken)
  end
end
return 1
"""
)
"""KEYS as for DECIDE. ARGV: now, the reservation's name, `settle` or `merge` (take what nobody reserved, once for
that name, which the second key remembers for ten minutes), then for
each charge strategy, amount, window, cost, units taken for good."""
