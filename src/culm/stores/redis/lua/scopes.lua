-- Scopes, events, triggers; how a job is released, finished and cancelled. As tables.py reads, line for line.
local DEFAULT_KEEP_MS, TOMBSTONE_MS = 3600000, 3600000
local CANCELLED, BEFORE = '\146\3\160', '\146\3\178before it was sent' -- Cancelled() and Cancelled("before it was sent"), encoded
local ledger = false -- tests only: each final commit leaves its lease in `ledger`

local function scope_key(root)
    return P .. 's:' .. root
end

-- Make the scope's counter when it is first needed, counting the root if that is unfinished.
local function need_scope(root, but)
    local key = scope_key(root)
    local live = call('HGET', key, 'live')
    if not live then
        live = 0
        local row = root ~= but and row_of(root) or nil
        if row and not row.finished then
            live = 1
            save(row)
        end
        call('HSET', key, 'live', live)
        call('ZADD', SCOPES, 'inf', root)
    end
    if tonumber(live) == 0 then
        call('ZADD', SCOPES, now + DEFAULT_KEEP_MS, root)
    end
    return key
end

-- Count it among the live jobs of its scope, if there is anything to count for.
local function enter(id, topic)
    local root = root_of(id)
    if root == id and topic == '' and call('EXISTS', scope_key(root)) == 0 then
        return false
    end
    call('HINCRBY', need_scope(root, id), 'live', 1)
    call('ZADD', SCOPES, 'inf', root)
    return true
end

local function release(id)
    local row = row_of(id)
    if not row or row.finished then
        return
    end
    if row.lease then
        row.again = 1
        save(row)
    elseif row.due > now then
        leave_bundle(row) -- if the server's clock went back
        open_at(row, now)
        save(row)
    end
end

local function release_trigger(key, scope, tid)
    local waiting = cmsgpack.unpack(call('HGET', key, 'w' .. tid))
    for _, topic in ipairs(waiting.topics) do
        call('HDEL', event_key('a:', scope, topic), tid)
    end
    call('HDEL', key, 'w' .. tid, 'c' .. tid)
    release(waiting.id)
end

local function reached(scope, topic, count)
    local key, awaits = scope_key(scope), event_key('a:', scope, topic)
    local waiting = call('HGETALL', awaits)
    for i = 1, #waiting, 2 do
        local tid = waiting[i]
        if count >= tonumber(waiting[i + 1]) and call('HDEL', awaits, tid) == 1 then
            local need = cmsgpack.unpack(call('HGET', key, 'w' .. tid)).need
            if call('HINCRBY', key, 'c' .. tid, 1) >= need then
                release_trigger(key, scope, tid)
            end
        end
    end
end

local function emit(scope, topic, name, value)
    local key, events = need_scope(scope), event_key('e:', scope, topic)
    if call('HSETNX', events, name, value) == 1 then
        call('HSET', key, 't' .. topic, 1)
        reached(scope, topic, call('HLEN', events))
    end
end

-- What is known of a topic's events; `done/<id>` is 1 when that job is not, or no longer, unfinished.
local function count_of(scope, topic)
    if string.sub(topic, 1, 5) == 'done/' then
        local row = row_of(string.sub(topic, 6))
        return (not row or row.finished) and 1 or 0
    end
    return call('HLEN', event_key('e:', scope, topic))
end

local function await(trigger)
    local key, waiting, got = need_scope(trigger.scope), {}, 0
    for topic, count in pairs(trigger.topics) do
        if count_of(trigger.scope, topic) >= count then
            got = got + 1
        else
            waiting[#waiting + 1] = topic
        end
    end
    if got >= trigger.need then
        return release(trigger.id)
    end
    local tid = call('INCR', P .. 'tid')
    for _, topic in ipairs(waiting) do
        call('HSET', event_key('a:', trigger.scope, topic), tid, trigger.topics[topic])
        call('HSET', key, 't' .. topic, 1)
    end
    call('HSET', key, 'w' .. tid, cmsgpack.pack({ id = trigger.id, need = trigger.need, topics = waiting }), 'c' .. tid, got)
end

-- End the job: kind 1-5 as ENDINGS counts them. First it goes, or is kept; then its topic, its scope and its joins hear of it.
local function finish(row, kind, outcome, keep, lease)
    local id, root, value = row.id, root_of(row.id), ''
    call('HDEL', STATE, id)
    if kind == 2 or kind == 5 or keep > 0 then
        local dead = kind == 2 or kind == 5
        local died = dead and ' ' .. NOW or ''
        value = string.format('F%d %d %d %d %.0f%s\n', kind, row.attempt, row.expiries, row.fence, row.sent, died) .. outcome
        call('HSET', OUTCOMES, id, value)
        if dead then
            call('ZADD', DEAD, 0, id)
        else
            call('ZADD', EXPIRE, now + keep, id)
        end
    else
        forget(id)
    end
    if ledger then
        call('RPUSH', P .. 'ledger', id .. '\n' .. lease)
    end
    if somebody_waits() then
        tell(id, call('HGET', WAITS, id), value)
    end
    if row.channel ~= '' then
        add_to(P .. row.channel, words_of(id, value))
    end
    if row.topic ~= '' then
        emit(root, row.topic, id, outcome)
    end
    local key = scope_key(root)
    if call('EXISTS', key) == 1 then
        if call('HINCRBY', key, 'live', -1) == 0 then
            call('ZADD', SCOPES, now + keep, root)
        end
        reached(root, 'done/' .. id, 1)
    end
end

-- `left`: it is in no bundle any more.
local function cancel(id, left)
    local row = row_of(id)
    if not row then
        call('ZADD', TOMBS, now + TOMBSTONE_MS, id)
    elseif row.lease then
        row.cancelled = 1
        save(row)
    elseif not row.finished then
        if call('ZREM', P .. 'q:' .. row.lane, row.n .. id) == 0 and not left then
            leave_bundle(row)
        end
        finish(row, 3, CANCELLED, row.keep, '')
    end
end
