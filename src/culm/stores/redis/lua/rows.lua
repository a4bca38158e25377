-- A job's row, put together from its record, its lease and its state; and what is written when these change.
--
-- A row without an entry in `state` is plain: what its record and its lease say is all there is, and `finish.lua` may end it.
-- Entering a scope, any outcome but an end, a flag, a release, a lease that ran out: each makes an entry, and the row special.
local told_queues = {}
local BROKEN = RECORD .. string.rep('\0', 8) .. string.rep('0', HEAD_FROM) -- stands for a record that is none: whoever claims it makes a dead letter of it

local function event_key(kind, scope, topic)
    return P .. kind .. #scope .. ':' .. scope .. topic
end

local function root_of(id)
    return string.match(id, '^[^~]*')
end

-- Where its body begins.
local function body_of(record)
    return HEAD_FROM + (string.byte(record, 29) or 0) * 256 + (string.byte(record, 30) or 0)
end

-- The head of a record (records.py writes it), as far as a row needs it; nil: there is no such job.
local function head_in(id, record)
    local after, at, priority, keep, queue, task, topic, first =
        string.match(record, '^ (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)\n()', HEAD_FROM)
    if not first then
        record, first = BROKEN, #BROKEN + 1
        after, at, priority, keep, queue, task, topic = '0', '0', '0', '0', '0', '0', '0'
    end
    queue, task, topic = tonumber(queue), tonumber(task), tonumber(topic)
    local row = { id = id, n = string.sub(record, 12, 27), sent = struct.unpack('>I8', record, 3), keep = tonumber(keep) }
    row.due = after == '-' and INF or math.max(row.sent + after, tonumber(at))
    row.queue = string.sub(record, first, first + queue - 1)
    row.task = string.sub(record, first + queue, first + queue + task - 1)
    row.topic = string.sub(record, first + queue + task, first + queue + task + topic - 1)
    row.channel = string.sub(record, first + queue + task + topic, body_of(record) - 1) -- the rest of the head
    row.lane = priority .. row.queue
    row.attempt, row.expiries, row.fence, row.again, row.cancelled = 0, 0, 0, 0, 0
    return row
end

local function head_of(id)
    local record = call('HGET', JOBS, id)
    return record and head_in(id, record) or nil
end

local function read_state(row, state)
    local attempt, expiries, fence, again, cancelled, due, sent = string.match(state, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
    row.attempt, row.expiries, row.fence = tonumber(attempt), tonumber(expiries), tonumber(fence)
    row.again, row.cancelled, row.due, row.sent = tonumber(again), tonumber(cancelled), tonumber(due), tonumber(sent)
    row.special = true
end

local function is_cancelled(state)
    return string.match(state, '^%S+ %S+ %S+ %S+ (%S+)') == '1'
end

-- The row; nil: there is no such job. `due` of a leased one is what it was due before its first claim.
local function row_of(id)
    if id == LISTLESS then
        return nil
    end
    local row, held, state = head_of(id), call('HGET', HELD, id), call('HGET', STATE, id)
    if not row then
        if not held then
            return nil
        end
        row = head_in(id, BROKEN) -- somebody deleted its record
    end
    if held then
        row.lease, row.queue = lease_in(held), queue_in(held)
        row.lane = string.sub(row.lane, 1, 1) .. row.queue
        row.attempt, row.fence = 1, 1
    elseif string.sub(call('HGET', OUTCOMES, id) or '', 1, 1) == 'F' then
        row.finished = true
    end
    if state then
        read_state(row, state)
    end
    return row
end

local function save(row)
    local text = string.format('%d %d %d %d %d %.0f %.0f', row.attempt, row.expiries, row.fence, row.again, row.cancelled, row.due, row.sent)
    call('HSET', STATE, row.id, text)
    if row.lease and not row.special then
        call('HSET', HELD, row.id, holder('*', row.lease, row.queue))
    end
    row.special = true
end

local function open_at(row, due)
    row.due = due
    call('ZADD', P .. 'q:' .. row.lane, due, row.n .. row.id)
    call('SADD', LANES, row.lane)
    if due < INF then
        told_queues[row.queue] = true
    end
end

local function let_go(row)
    call('HDEL', HELD, row.id)
    forget_held(row.lease, row.queue, 1, { row.id }, 1, 1)
    row.lease = nil
end

local function ring_told()
    for queue in pairs(told_queues) do
        ring(queue)
    end
    publish_told()
end
