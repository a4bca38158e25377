-- Lease due jobs. ARGV: now, lease, limit, for_ms, order ('priority' or 'age'), ledger, queues...
-- -> now, ms until the next is due ('' if none is known), ids (a line each), their records ('': ask for them; where they are many,
--    passing each through a script costs more than a trip), and of the special ones: place, attempt, expiries, fence, sent
local lease, limit, for_ms, by_age = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == 'age'
local MOST_BYTES, MOST_INLINE, FEW_LANES = 16777216, 64, 8 -- of one claim; records in the answer; of a namespace, for each queue
local taken, took, special, size, full = {}, 0, {}, 0, false -- `taken`: ids, and how many
local granted = {} -- by queue: its ids, a line each
local bundled = call('EXISTS', BUNDLED) == 1
local uneven = call('EXISTS', PAUSED, STATE, LARGE) > 0 -- one of these is there
local seldom, made

local function answer(next_ms)
    local records = took > 0 and took <= MOST_INLINE and size == 0 and call('HMGET', JOBS, unpack(taken))
    local queue, ids = next(granted)
    if took > 0 and (not queue or next(granted, queue)) then
        ids = table.concat(taken, '\n')
    end
    return { NOW, next_ms, ids or '', records or '', special }
end

-- How many of the first `count` ids a claim may carry. Only large records are counted: `large` knows them.
local function carried(ids, count)
    if uneven and call('EXISTS', LARGE) == 1 then
        for i, bytes in ipairs(ask('HMGET', LARGE, ids, 1, count)) do
            size = size + (bytes or 0)
            if size > MOST_BYTES and took + i > 1 then
                full = true
                return i - 1
            end
        end
    end
    return count
end

-- A claim was granted ids[from..to]. `text`: these, a line each, if that is known.
local function hold(queue, ids, from, to, text)
    local before, lines = granted[queue], text or table.concat(ids, '\n', from, to)
    granted[queue] = before and before .. '\n' .. lines or lines
    call('HSET', P .. 'l:' .. queue, lease, granted[queue])
    call('HINCRBY', P .. 'k:' .. queue, lease, to - from + 1)
    call('ZADD', P .. 'u:' .. queue, string.format('%d', now + for_ms), lease)
end

-- Jobs of one queue that left their lanes become held, in this order.
local function grant(ids, queue, from, to, text)
    local held, h, plain = { LISTLESS, ROOMY }, 2, holder('.', lease, queue)
    for i = from, to do
        held[h + 1], held[h + 2], h = ids[i], plain, h + 2
        took = took + 1
        taken[took] = ids[i]
    end
    if uneven and call('EXISTS', STATE) == 1 then
        seldom().grant_special(ids, queue, from, to, held)
    end
    many('HSET', HELD, held, 1, h)
    hold(queue, ids, from, to, text)
end

-- Functions are made in each call of a script, and to make those that few claims need took longer than the others' work.
function seldom()
    made = made or (function()
        -- with: tell, held, rows, bundle_places, scopes, claim_seldom
    end)()
    return made
end

local function take_singles(lane, want)
    local some, ids = call('ZRANGEBYSCORE', P .. 'q:' .. lane, '-inf', NOW, 'LIMIT', 0, want), {}
    for i = 1, #some do
        ids[i] = string.sub(some[i], 17)
    end
    local count = carried(ids, #ids)
    if count > 0 then
        call('ZREMRANGEBYRANK', P .. 'q:' .. lane, 0, count - 1)
        grant(ids, string.sub(lane, 2), 1, count)
    end
end

local function take_bundled(found)
    local count = carried(found.ids, found.count)
    if count > 0 then
        take_bundles(found, count)
        grant(found.ids, string.sub(found.lane, 2), 1, count, count == found.count and found.lines or nil)
    end
end

local function take_from(lanes, want)
    local lane = lanes[1]
    local found = #lanes == 1 and bundled and bundles_in(lane, want, NOW)
    if #lanes == 1 and not found then
        take_singles(lane, want)
    elseif #lanes == 1 and call('ZCOUNT', P .. 'q:' .. lane, '-inf', NOW) == 0 then
        take_bundled(found)
    else
        seldom().take_from_several(lanes, want)
    end
end

-- Of all the lanes that there are, those of these queues, the highest priority first.
local function lanes_among_all(queues)
    local place, lanes = {}, {}
    for i, queue in ipairs(queues) do
        place[queue] = i
    end
    local function add_known(lane)
        if place[string.sub(lane, 2)] and not lanes[lane] then
            lanes[#lanes + 1], lanes[lane] = lane, true
        end
    end
    for _, lane in ipairs(call('SMEMBERS', LANES)) do
        add_known(lane)
    end
    for _, lane in ipairs(bundled and call('HKEYS', BUNDLED) or {}) do
        add_known(lane)
    end
    if #lanes > 1 then
        table.sort(lanes, function(a, b)
            local one, other = string.byte(a), string.byte(b)
            return one > other or one == other and place[string.sub(a, 2)] < place[string.sub(b, 2)]
        end)
    end
    return lanes
end

-- Of the lanes that these queues may have, those that there are, the highest priority first.
local function lanes_among_names(queues)
    local names, lanes = {}, {}
    for priority = 9, 0, -1 do
        for _, queue in ipairs(queues) do
            names[#names + 1] = priority .. queue
        end
    end
    local has_bundles = bundled and ask('HMGET', BUNDLED, names, 1, #names) or {} -- an earlier version forgets lanes that have nothing else
    for i, known in ipairs(ask('SMISMEMBER', LANES, names, 1, #names)) do
        if known == 1 or has_bundles[i] then
            lanes[#lanes + 1] = names[i]
        end
    end
    return lanes
end

-- The lanes of these queues, by groups: one for each priority, the highest first, or a single one.
local function groups_of(queues)
    local find, groups = call('SCARD', LANES) <= FEW_LANES * #queues and lanes_among_all or lanes_among_names, {}
    for _, lane in ipairs(find(queues)) do
        local group = by_age and 1 or string.sub(lane, 1, 1)
        if #groups == 0 or groups[#groups].is ~= group then
            groups[#groups + 1] = { is = group }
        end
        table.insert(groups[#groups], lane)
    end
    return groups
end

-- ms until the next job of these lanes is due; whoever waits for one that is due now is woken.
local function next_due(groups)
    local first, lane_of_first = INF, nil
    for _, lanes in ipairs(groups) do
        for _, lane in ipairs(lanes) do
            local due = first_due(lane, bundled)
            if due < first then
                first, lane_of_first = due, lane
            end
        end
    end
    if first <= now then
        ring(string.sub(lane_of_first, 2)) -- marker only
    end
    return first == INF and '' or string.format('%.0f', math.max(0, first - now))
end

local function open_queues()
    local queues, paused = {}, uneven and call('EXISTS', PAUSED) == 1
    for i = 7, #ARGV do
        if not paused or call('SISMEMBER', PAUSED, ARGV[i]) == 0 then
            queues[#queues + 1] = ARGV[i]
        end
    end
    return queues
end

-- Leases of these queues may have run out.
local function some_ran_out(queues)
    for _, queue in ipairs(queues) do
        if call('ZCOUNT', P .. 'u:' .. queue, '-inf', NOW) > 0 then
            return true
        end
    end
    return false
end

local claimer, number = string.match(lease, '^(.*)/([^/]*)$')
local known = call('GET', P .. 'c:' .. (claimer or ''))
if known == lease then
    return seldom().repeated()
end
if known and (tonumber(string.match(known, '([^/]*)$')) or 0) > (tonumber(number) or INF) then
    return answer('0') -- late: the claimer has long got its answer, and would not know of what is granted now
end
despite_full_memory()
local queues = open_queues()
if not in_grace(for_ms) and some_ran_out(queues) then
    seldom().overdue(queues)
    uneven = true -- these are special now
end
local groups = groups_of(queues)
for _, lanes in ipairs(groups) do
    local want = limit - took
    if want > 0 and not full then
        take_from(lanes, want)
    end
end
if took > 0 or limit == 0 then -- of nothing: whatever this claimer asked before and is yet to arrive is too late
    call('SET', P .. 'c:' .. (claimer or ''), lease, 'PX', ANSWERS_MS)
end
local next_ms = next_due(groups)
if made then
    made.ring_told()
end
return answer(next_ms)
