-- The queue's steps on Redis, each atomic. ARGV: the step, then what it takes. KEYS[1]: the prefix of every key, in braces, so that all are in
-- one slot of a cluster.
--   j:ID          hash: the job                       t:TENANT:STATE  zset: its jobs, in the order of their names
--   r:KIND        zset: ready, by -priority           i:TENANT        hash: idempotency key -> ID
--   w             zset: waiting, by time              s:TENANT        hash: schedule -> JSON
--   l             zset: running, by end of lease      d               zset: TENANT/schedule, by time
--   f:STATE       zset: finished, by time
local P = KEYS[1]
local at = 1
local function arg() at = at + 1; return ARGV[at] end
local function num() return tonumber(arg()) end
local function int(n) return string.format('%.0f', n) end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local final = { done = true, dead = true, cancelled = true }

local function field(id, name) return redis.call('HGET', P .. 'j:' .. id, name) end
local function job(id)
  local all = redis.call('HGETALL', P .. 'j:' .. id)
  all[#all + 1] = 'id'; all[#all + 1] = id
  return all
end
local function basics(id)
  local b = redis.call('HMGET', P .. 'j:' .. id, 'tenant', 'kind', 'state', 'priority', 'attempt', 'max_attempts', 'fence', 'cancelling')
  if not b[1] then return nil end
  return { tenant = b[1], kind = b[2], state = b[3], priority = tonumber(b[4]), attempt = tonumber(b[5]), most = tonumber(b[6]),
           fence = b[7], cancelling = b[8] == '1' }
end
local function place(b, state)
  if state == 'queued' then return P .. 'r:' .. b.kind end
  if state == 'waiting' then return P .. 'w' end
  if state == 'running' then return P .. 'l' end
  return P .. 'f:' .. state
end
local function enter(id, b, state, score)
  if state == 'queued' then score = -b.priority end
  if final[state] then score = now; redis.call('HSET', P .. 'j:' .. id, 'finished', int(now)) end
  redis.call('HSET', P .. 'j:' .. id, 'state', state)
  redis.call('ZADD', place(b, state), int(score), id)
  redis.call('ZADD', P .. 't:' .. b.tenant .. ':' .. state, 0, id)
end
local function leave(id, b)
  redis.call('ZREM', place(b, b.state), id)
  redis.call('ZREM', P .. 't:' .. b.tenant .. ':' .. b.state, id)
end
local function move(id, b, state, score) leave(id, b); enter(id, b, state, score) end
local function insert(id, tenant, kind, state, payload, priority, most, delay, key)
  if key ~= '' and redis.call('HSETNX', P .. 'i:' .. tenant, key, id) == 0 then return false end
  local due = now + tonumber(delay)
  redis.call('HSET', P .. 'j:' .. id, 'tenant', tenant, 'kind', kind, 'payload', payload, 'priority', priority, 'max_attempts', most,
    'attempt', '0', 'fence', '0', 'due', int(due), 'cancelling', '0', 'progress_done', '0', 'progress_total', '0', 'message', '',
    'key', key, 'created', int(now))
  enter(id, { tenant = tenant, kind = kind, priority = tonumber(priority) }, state, due)
  return true
end
local function delete(id, b)
  local key = field(id, 'key')
  if key and key ~= '' then redis.call('HDEL', P .. 'i:' .. b.tenant, key) end
  leave(id, b)
  redis.call('DEL', P .. 'j:' .. id)
end

local steps = {}

function steps.now() return int(now) end

function steps.enqueue()
  local n, rows, kinds = num(), {}, {}
  for i = 1, n do
    rows[i] = { arg(), arg(), arg(), arg(), arg(), arg(), arg(), arg(), arg() }
    local tenant, kind, key = rows[i][2], rows[i][3], rows[i][9]
    if key ~= '' then
      local there = redis.call('HGET', P .. 'i:' .. tenant, key)
      local other = there and field(there, 'kind') or kinds[tenant .. '/' .. key]
      if other and other ~= kind then return { 'other', int(i - 1), other } end
      kinds[tenant .. '/' .. key] = kind
    end
  end
  local answers = {}
  for i = 1, n do
    local row = rows[i]
    if insert(unpack(row)) then answers[i] = { row[1], '1' } else answers[i] = { redis.call('HGET', P .. 'i:' .. row[2], row[9]), '0' } end
  end
  return answers
end

function steps.pending()
  local tenant, count = arg(), 0
  for _, state in ipairs({ 'queued', 'running', 'waiting' }) do count = count + redis.call('ZCARD', P .. 't:' .. tenant .. ':' .. state) end
  return int(count)
end

function steps.get()
  local tenant, id = arg(), arg()
  if field(id, 'tenant') ~= tenant then return {} end
  return { job(id) }
end

function steps.list()
  local tenant, kind, before, limit, states = arg(), arg(), arg(), num(), num()
  local ids = {}
  for _ = 1, states do
    local key = P .. 't:' .. tenant .. ':' .. arg()
    local from, found = before == '' and '+' or '(' .. before, 0
    while found < limit do
      local page = redis.call('ZREVRANGEBYLEX', key, from, '-', 'LIMIT', 0, limit)
      if #page == 0 then break end
      for _, id in ipairs(page) do
        if found < limit and (kind == '' or field(id, 'kind') == kind) then found = found + 1; ids[#ids + 1] = id end
      end
      from = '(' .. page[#page]
    end
  end
  table.sort(ids, function(a, b) return a > b end)
  local jobs = {}
  for i = 1, math.min(limit, #ids) do jobs[i] = job(ids[i]) end
  return jobs
end

function steps.cancel()
  local tenant, id = arg(), arg()
  local b = basics(id)
  if not b or b.tenant ~= tenant then return {} end
  if b.state == 'running' then redis.call('HSET', P .. 'j:' .. id, 'cancelling', '1')
  elseif not final[b.state] then move(id, b, 'cancelled') end
  return { job(id) }
end

function steps.retry()
  local tenant, id = arg(), arg()
  local b = basics(id)
  if not b or b.tenant ~= tenant or (b.state ~= 'dead' and b.state ~= 'cancelled') then return {} end
  redis.call('HDEL', P .. 'j:' .. id, 'finished')
  redis.call('HSET', P .. 'j:' .. id, 'attempt', '0', 'cancelling', '0', 'due', int(now))
  move(id, b, 'queued')
  return { job(id) }
end

function steps.purge()
  local tenant, state, older, most = arg(), arg(), num(), num()
  local ids, deleted = {}, 0
  if tenant == '' then
    ids = redis.call('ZRANGEBYSCORE', P .. 'f:' .. state, '-inf', int(now - older), 'LIMIT', 0, most)
  else
    ids = redis.call('ZRANGE', P .. 't:' .. tenant .. ':' .. state, 0, -1)
  end
  for _, id in ipairs(ids) do
    if deleted == most then break end
    if tonumber(field(id, 'finished')) <= now - older then delete(id, basics(id)); deleted = deleted + 1 end
  end
  return int(deleted)
end

function steps.trim()
  local state, keep, most = arg(), num(), num()
  local above = math.min(redis.call('ZCARD', P .. 'f:' .. state) - keep, most)
  if above <= 0 then return '0' end
  for _, id in ipairs(redis.call('ZRANGE', P .. 'f:' .. state, 0, above - 1)) do delete(id, basics(id)) end
  return int(above)
end

function steps.stats()
  local tenant, counts = arg(), {}
  for _, state in ipairs({ 'queued', 'running', 'waiting', 'done', 'dead', 'cancelled' }) do
    counts[#counts + 1] = { state, int(redis.call('ZCARD', P .. 't:' .. tenant .. ':' .. state)) }
  end
  return counts
end

function steps.claim()
  local worker, lease, most, longest, step, kinds = arg(), num(), num(), num(), num(), num()
  local function ready(from, to)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'w', from, to, 'LIMIT', 0, step)) do move(id, basics(id), 'queued') end
  end
  ready('-inf', int(now))
  -- A wait longer than any was given by a clock that went back.
  ready('(' .. int(now + longest), '+inf')
  local found = {}
  for _ = 1, kinds do
    local first = redis.call('ZRANGE', P .. 'r:' .. arg(), 0, most - 1, 'WITHSCORES')
    for i = 1, #first, 2 do found[#found + 1] = { tonumber(first[i + 1]), first[i] } end
  end
  table.sort(found, function(a, b) if a[1] ~= b[1] then return a[1] < b[1] end return a[2] < b[2] end)
  local jobs = {}
  for i = 1, math.min(most, #found) do
    local id = found[i][2]
    move(id, basics(id), 'running', now + lease)
    redis.call('HINCRBY', P .. 'j:' .. id, 'attempt', 1)
    redis.call('HINCRBY', P .. 'j:' .. id, 'fence', 1)
    redis.call('HSET', P .. 'j:' .. id, 'worker', worker, 'started', int(now), 'progress_done', '0', 'progress_total', '0', 'message', '')
    jobs[i] = job(id)
  end
  return jobs
end

function steps.beat()
  local lease, n = num(), num()
  local heard = {}
  for i = 1, n do
    local id, fence, done, total, message = arg(), arg(), arg(), arg(), arg()
    local b = basics(id)
    if not b or b.state ~= 'running' or b.fence ~= fence then
      heard[i] = '0'
    else
      redis.call('ZADD', P .. 'l', int(now + lease), id)
      redis.call('HSET', P .. 'j:' .. id, 'progress_done', done, 'progress_total', total, 'message', message)
      heard[i] = b.cancelling and '2' or '1'
    end
  end
  return heard
end

function steps.finish()
  local n, states = num(), {}
  for i = 1, n do
    local id, fence, state, result, err, after, done, total, message = arg(), arg(), arg(), arg(), arg(), num(), arg(), arg(), arg()
    local b = basics(id)
    if not b or b.state ~= 'running' or b.fence ~= fence then
      states[i] = ''
    else
      local key = P .. 'j:' .. id
      if state ~= 'done' and b.cancelling then state = 'cancelled'
      elseif state == 'waiting' and b.attempt >= b.most then state = 'dead'
      elseif state == 'queued' then redis.call('HINCRBY', key, 'attempt', -1) end
      redis.call('HSET', key, 'due', int(now + after), 'cancelling', '0', 'progress_done', done, 'progress_total', total, 'message', message)
      if state == 'done' then redis.call('HSET', key, 'result', result); redis.call('HDEL', key, 'error')
      elseif err ~= '' then redis.call('HSET', key, 'error', err) end
      move(id, b, state, now + after)
      states[i] = state
    end
  end
  return states
end

function steps.reap()
  local base, longest, lease, step = num(), num(), num(), num()
  local count = { waiting = 0, dead = 0, cancelled = 0 }
  local function take(from, to)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'l', from, to, 'LIMIT', 0, step)) do
      local b = basics(id)
      local state = b.cancelling and 'cancelled' or b.attempt >= b.most and 'dead' or 'waiting'
      local due = now + math.min(longest, base * 2 ^ math.min(b.attempt - 1, 20))
      redis.call('HSET', P .. 'j:' .. id, 'due', int(due), 'cancelling', '0', 'error', 'its worker went away during attempt ' .. int(b.attempt))
      move(id, b, state, due)
      count[state] = count[state] + 1
    end
  end
  take('-inf', int(now))
  take('(' .. int(now + lease), '+inf')
  return { int(count.waiting), int(count.dead), int(count.cancelled) }
end

function steps.schedule_put()
  local tenant, name, due, text, most = arg(), arg(), arg(), arg(), num()
  local key = P .. 's:' .. tenant
  if redis.call('HEXISTS', key, name) == 0 and redis.call('HLEN', key) >= most then return '0' end
  redis.call('HSET', key, name, text)
  redis.call('ZADD', P .. 'd', due, tenant .. '/' .. name)
  return '1'
end

function steps.schedule_delete()
  local tenant, name = arg(), arg()
  redis.call('ZREM', P .. 'd', tenant .. '/' .. name)
  return int(redis.call('HDEL', P .. 's:' .. tenant, name))
end

-- Each as its JSON and its time.
local function schedule(tenant, name)
  return { redis.call('HGET', P .. 's:' .. tenant, name), redis.call('ZSCORE', P .. 'd', tenant .. '/' .. name) }
end

function steps.schedules()
  local tenant, all = arg(), {}
  for i, name in ipairs(redis.call('HKEYS', P .. 's:' .. tenant)) do all[i] = schedule(tenant, name) end
  return all
end

function steps.schedules_due()
  local due = {}
  for i, member in ipairs(redis.call('ZRANGEBYSCORE', P .. 'd', '-inf', int(now), 'LIMIT', 0, num())) do
    local slash = string.find(member, '/', 1, true)
    due[i] = schedule(string.sub(member, 1, slash - 1), string.sub(member, slash + 1))
  end
  return due
end

function steps.fire()
  local member, from, to = arg(), num(), arg()
  local score = redis.call('ZSCORE', P .. 'd', member)
  if not score or tonumber(score) ~= from then return '0' end
  redis.call('ZADD', P .. 'd', to, member)
  if insert(arg(), arg(), arg(), arg(), arg(), arg(), arg(), arg(), arg()) then return '1' end
  return '0'
end

return steps[ARGV[1]]()
