-- Lease due jobs. ARGV: now, lease, limit, for_ms, order ('priority' or 'age'), ledger, queues...
-- -> now, ms until the next is due ('' if none is known), ids, records, and of the special ones:
--    place, attempt, expiries, fence, sent
local lease, limit, for_ms, by_age = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == 'age'
ledger = ARGV[6] == '1'
local taken, records, special = {}, {}, {} -- `taken`: ids

local function add_special(row)
    local at = #special
    special[at + 1], special[at + 2], special[at + 3] = #taken, row.attempt, row.expiries
    special[at + 4], special[at + 5] = row.fence, string.format('%.0f', row.sent)
end

local function add(row)
    taken[#taken + 1], records[#records + 1] = row.id, call('GET', P .. 'j:' .. row.id)
    add_special(row)
end

local function answer(next_ms)
    return { string.format('%.0f', now), next_ms, taken, records, special }
end

-- What the lease holds: its reply was lost.
local function repeated()
    local held = call('HGETALL', HELD)
    for i = 1, #held, 2 do
        if string.sub(held[i + 1], 2) == lease then
            add(row_of(held[i]))
        end
    end
    return answer('0')
end

local function sooner(a, b)
    return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
end

-- Jobs whose lease ran out, the earliest first; whoever was asked to stop is stopped now.
local function overdue(queues)
    local found = {}
    for _, queue in ipairs(queues) do
        local some = call('ZRANGEBYSCORE', P .. 'u:' .. queue, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 5000)
        for i = 1, #some, 2 do
            found[#found + 1] = { tonumber(some[i + 1]), some[i] }
        end
    end
    table.sort(found, sooner)
    for _, entry in ipairs(found) do
        local row = row_of(string.sub(entry[2], 17))
        if row.cancelled == 1 then
            local was = row.lease
            let_go(row)
            finish(row, 3, CANCELLED, row.keep, was)
        elseif #taken < limit then
            let_go(row)
            row.expiries, row.fence, row.special = row.expiries + 1, row.fence + 1, true
            save(row)
            call('HSET', HELD, row.id, '*' .. lease)
            call('ZADD', P .. 'u:' .. row.queue, now + for_ms, entry[2])
            add(row)
        end
    end
end

local function fetch(ids)
    local keys, record = {}, P .. 'j:'
    for i = 1, #ids do
        keys[i] = record .. ids[i]
    end
    local found = {}
    for i = 1, #keys, CHUNK do
        local some = call('MGET', unpack(keys, i, math.min(i + CHUNK - 1, #keys)))
        if i == 1 then
            found = some
        else
            for j = 1, #some do
                found[i + j - 1] = some[j]
            end
        end
    end
    return found
end

-- A job that has a state: claimed before, or in a scope, or released.
local function grant_special(id, state)
    local row = { id = id }
    read_state(row, state)
    row.attempt, row.fence = row.attempt + 1, row.fence + 1
    save(row)
    add_special(row)
    return '*' .. lease
end

-- Jobs that left their lanes become held, in this order. `queue_of` says where each was; a text: all were there.
local function grant(some, queue_of)
    local ids, held, untils, h, plain = {}, {}, {}, 0, '.' .. lease
    local ends, single = string.format('%.0f', now + for_ms), type(queue_of) == 'string'
    for i = 1, #some do
        ids[i] = string.sub(some[i], 17)
    end
    local states = call('EXISTS', STATE) == 1 and ask('HMGET', STATE, ids, 1, #ids)
    local found, t = fetch(ids), #taken
    for i = 1, #some do
        if found[i] then -- else somebody deleted it behind our back: it is no job any more
            local queue = single and queue_of or queue_of[i]
            local list = untils[queue] or { size = 0 }
            untils[queue], t = list, t + 1
            taken[t], records[t] = ids[i], found[i]
            held[h + 1], held[h + 2] = ids[i], states and states[i] and grant_special(ids[i], states[i]) or plain
            list[list.size + 1], list[list.size + 2] = ends, some[i]
            h, list.size = h + 2, list.size + 2
        end
    end
    many('HSET', HELD, held, 1, h)
    for queue, list in pairs(untils) do
        many('ZADD', P .. 'u:' .. queue, list, 1, list.size)
    end
end

local function take_from_one(lane, want)
    local some = call('ZRANGEBYSCORE', P .. 'q:' .. lane, '-inf', now, 'LIMIT', 0, want)
    if #some > 0 then
        call('ZREMRANGEBYRANK', P .. 'q:' .. lane, 0, #some - 1)
        grant(some, string.sub(lane, 2))
    end
end

-- The oldest due of several lanes.
local function take_from_several(lanes, want)
    local found, some, queue_of, from = {}, {}, {}, {}
    for _, lane in ipairs(lanes) do
        local due = call('ZRANGEBYSCORE', P .. 'q:' .. lane, '-inf', now, 'WITHSCORES', 'LIMIT', 0, want)
        for i = 1, #due, 2 do
            found[#found + 1] = { tonumber(due[i + 1]), due[i], lane }
        end
    end
    table.sort(found, sooner)
    for i = 1, math.min(want, #found) do
        some[i], queue_of[i] = found[i][2], string.sub(found[i][3], 2)
        from[found[i][3]] = (from[found[i][3]] or 0) + 1
    end
    for lane, count in pairs(from) do
        call('ZREMRANGEBYRANK', P .. 'q:' .. lane, 0, count - 1)
    end
    if #some > 0 then
        grant(some, queue_of)
    end
end

-- The lanes that these queues have, by groups: one for each priority, the highest first, or a single one.
local function groups_of(queues)
    local names, groups = {}, {}
    for priority = 9, 0, -1 do
        for _, queue in ipairs(queues) do
            names[#names + 1] = priority .. queue
        end
    end
    for i, known in ipairs(ask('SMISMEMBER', LANES, names, 1, #names)) do
        if known == 1 then
            local group = by_age and 1 or string.sub(names[i], 1, 1)
            if #groups == 0 or groups[#groups].is ~= group then
                groups[#groups + 1] = { is = group }
            end
            table.insert(groups[#groups], names[i])
        end
    end
    return groups
end

-- ms until the next job of these lanes is due; whoever waits for one that is due now is woken.
local function next_due(groups)
    local first, lane_of_first = INF, nil
    for _, lanes in ipairs(groups) do
        for _, lane in ipairs(lanes) do
            local head = call('ZRANGE', P .. 'q:' .. lane, 0, 0, 'WITHSCORES')
            if head[2] and tonumber(head[2]) < first then
                first, lane_of_first = tonumber(head[2]), lane
            end
        end
    end
    if first <= now then
        ring(string.sub(lane_of_first, 2))
    end
    return first == INF and '' or string.format('%.0f', math.max(0, first - now))
end

local function open_queues()
    local queues = {}
    local paused = call('EXISTS', PAUSED) == 1
    for i = 7, #ARGV do
        if not paused or call('SISMEMBER', PAUSED, ARGV[i]) == 0 then
            queues[#queues + 1] = ARGV[i]
        end
    end
    return queues
end

local claimer, number = string.match(lease, '^(.*)/([^/]*)$')
local known = call('GET', P .. 'c:' .. (claimer or ''))
if known == lease then
    return repeated()
end
if known and (tonumber(string.match(known, '([^/]*)$')) or 0) > (tonumber(number) or INF) then
    return answer('0') -- late: the claimer has long got its answer, and would not know of what is granted now
end
despite_full_memory()
local queues = open_queues()
if not in_grace(for_ms) then
    overdue(queues)
end
local groups = groups_of(queues)
for _, lanes in ipairs(groups) do
    local want = limit - #taken
    if want > 0 then
        if #lanes == 1 then
            take_from_one(lanes[1], want)
        else
            take_from_several(lanes, want)
        end
    end
end
if #taken > 0 then
    call('SET', P .. 'c:' .. (claimer or ''), lease, 'PX', ANSWERS_MS)
end
local next_ms = next_due(groups)
ring_told()
return answer(next_ms)
