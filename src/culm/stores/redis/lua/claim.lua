-- Lease due jobs. ARGV: now, lease, limit, for_ms, order ('priority' or 'age'), ledger, queues...
-- -> now, ms until the next is due ('' if none is known), ids (a line each), their records ('': ask for them; where they are many,
--    passing each through a script costs more than a trip), and of the special ones: place, attempt, expiries, fence, sent
local lease, limit, for_ms, by_age = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == 'age'
ledger = ARGV[6] == '1'
local MOST_BYTES, MOST_INLINE, MOST_LEASES = 16777216, 64, 200 -- of one claim; records in the answer; leases that ran out, of one queue
local taken, took, special, size, full = {}, 0, {}, 0, false -- `taken`: ids, and how many
local lines, lines_of = nil, 0 -- the first so many of these as one text
local bundled = call('EXISTS', BUNDLED) == 1

local function add_special(row)
    local at = #special
    special[at + 1], special[at + 2], special[at + 3] = took, row.attempt, row.expiries
    special[at + 4], special[at + 5] = row.fence, string.format('%.0f', row.sent)
end

local function add(row)
    took = took + 1
    taken[took] = row.id
    add_special(row)
end

local function answer(next_ms)
    local records = took > 0 and took <= MOST_INLINE and size == 0 and call('HMGET', JOBS, unpack(taken))
    local ids = lines and lines_of == took and lines or table.concat(taken, '\n')
    return { string.format('%.0f', now), next_ms, ids, records or '', special }
end

-- What the lease holds: its reply was lost.
local function repeated()
    for i = 7, #ARGV do
        for _, id in ipairs(still_held(lease, ARGV[i])) do
            add(row_of(id))
        end
    end
    return answer('0')
end

local function sooner(a, b)
    return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
end

-- Of a lease that may be overdue: add to `found` what is, of it only what was asked to stop when there is enough.
-- -> when the first of the others will be; whether something overdue is left
local function overdue_under(entry, found, enough)
    local ids, rest, left = still_held(entry.lease, entry.queue), INF, false
    local states = call('EXISTS', STATE) == 1 and ask('HMGET', STATE, ids, 1, #ids)
    for i, own in ipairs(ask('HMGET', P .. 'x:' .. entry.queue, ids, 1, #ids)) do
        local ends, asked = own and tonumber(own) or entry.bound, states and states[i] and is_cancelled(states[i])
        if ends > now then
            rest = math.min(rest, ends)
        elseif enough and not asked then
            left = true
        else
            found[#found + 1] = { ends, row_of(ids[i]).n, ids[i], entry, asked }
        end
    end
    return rest, left
end

-- How many of them a claim would take before all that end at that moment.
local function ended_before(found, moment)
    local n = 0
    for _, one in ipairs(found) do
        n = n + ((one[1] < moment and not one[5]) and 1 or 0)
    end
    return n
end

-- What may be overdue, by when.
local function lapsed(queues)
    local entries = {}
    for _, queue in ipairs(queues) do
        local some = call('ZRANGEBYSCORE', P .. 'u:' .. queue, '-inf', now, 'WITHSCORES', 'LIMIT', 0, MOST_LEASES)
        for i = 1, #some, 2 do
            entries[#entries + 1] = { lease = some[i], queue = queue, bound = tonumber(some[i + 1]) }
        end
    end
    table.sort(entries, function(a, b)
        return a.bound < b.bound
    end)
    return entries
end

local function fits(id)
    size = size + (call('HGET', LARGE, id) or 0)
    full = size > MOST_BYTES and took > 0
    return not full
end

-- Jobs whose lease ran out, the earliest first; whoever was asked to stop is stopped now.
local function overdue(queues)
    local found, entries, mine, enough, asked = {}, lapsed(queues), {}, false, call('EXISTS', STATE) == 1
    for _, entry in ipairs(entries) do
        enough = enough or #found >= limit and ended_before(found, entry.bound) >= limit
        if enough and not asked then -- nobody was asked to stop
            entry.rest, entry.left = INF, true
        else
            entry.rest, entry.left = overdue_under(entry, found, enough)
        end
    end
    table.sort(found, sooner)
    for _, one in ipairs(found) do
        local row, entry = row_of(one[3]), one[4] -- anew: the end of one may have released another
        if row.cancelled == 1 then
            let_go(row)
            finish(row, 3, CANCELLED, row.keep, entry.lease)
        elseif took < limit and not full and fits(row.id) then
            let_go(row)
            row.expiries, row.fence, row.special = row.expiries + 1, row.fence + 1, true
            save(row)
            call('HSET', HELD, row.id, holder('*', lease, row.queue))
            mine[row.queue] = mine[row.queue] or {}
            table.insert(mine[row.queue], row.id)
            add(row)
        else
            entry.left = true
        end
    end
    for _, entry in ipairs(entries) do
        if not entry.left and call('ZSCORE', P .. 'u:' .. entry.queue, entry.lease) then
            if entry.rest < INF then
                call('ZADD', P .. 'u:' .. entry.queue, entry.rest, entry.lease)
            else
                forget_lease(entry.lease, entry.queue)
            end
        end
    end
    for queue, ids in pairs(mine) do
        hold(lease, queue, ids, 1, #ids, now + for_ms)
    end
end

-- How many of the first `count` ids a claim may carry. Only large records are counted: `large` knows them.
local function carried(ids, count)
    if call('EXISTS', LARGE) == 1 then
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

-- A job that has a state: claimed before, or in a scope, or released.
local function grant_special(id, state)
    local row = { id = id }
    read_state(row, state)
    row.attempt, row.fence = row.attempt + 1, row.fence + 1
    save(row)
    add_special(row)
end

-- Jobs of one queue that left their lanes become held, in this order.
local function grant(ids, queue, from, to)
    local held, h, plain = { LISTLESS, ROOMY }, 2, holder('.', lease, queue)
    local states = call('EXISTS', STATE) == 1 and ask('HMGET', STATE, ids, from, to)
    for i = from, to do
        held[h + 1], held[h + 2], h = ids[i], plain, h + 2
        took = took + 1
        taken[took] = ids[i]
        if states and states[i - from + 1] then
            held[h] = holder('*', lease, queue)
            grant_special(ids[i], states[i - from + 1])
        end
    end
    many('HSET', HELD, held, 1, h)
    return hold(lease, queue, ids, from, to, now + for_ms)
end

-- All of one lane, in this order, as one text.
local function take_all(lane, ids, count)
    local first = took == 0
    local text = grant(ids, string.sub(lane, 2), 1, count)
    lines, lines_of = first and text or nil, took
end

local function take_singles(lane, want)
    local some, ids = call('ZRANGEBYSCORE', P .. 'q:' .. lane, '-inf', now, 'LIMIT', 0, want), {}
    for i = 1, #some do
        ids[i] = string.sub(some[i], 17)
    end
    local count = carried(ids, #ids)
    if count > 0 then
        call('ZREMRANGEBYRANK', P .. 'q:' .. lane, 0, count - 1)
        take_all(lane, ids, count)
    end
end

local function take_from_bundles(lane, want)
    local found = bundles_in(lane, want, now)
    local count = found and carried(found.ids, found.count) or 0
    if count > 0 then
        take_bundles(found, count)
        take_all(lane, found.ids, count)
    end
end

-- What is due in a lane, for `sooner`: due, `n`, id, lane, bundles.
local function add_due(all, lane, want)
    local due = call('ZRANGEBYSCORE', P .. 'q:' .. lane, '-inf', now, 'WITHSCORES', 'LIMIT', 0, want)
    for i = 1, #due, 2 do
        all[#all + 1] = { tonumber(due[i + 1]), string.sub(due[i], 1, 16), string.sub(due[i], 17), lane }
    end
    local found = bundled and bundles_in(lane, want, now)
    if found then
        each_bundled(found, function(at, n, id)
            all[#all + 1] = { at, n, id, lane, found }
        end)
    end
end

-- The oldest due of several lanes.
local function take_from_several(lanes, want)
    local all, ids, from = {}, {}, {}
    for _, lane in ipairs(lanes) do
        add_due(all, lane, want)
    end
    table.sort(all, sooner)
    for i = 1, math.min(want, #all) do
        ids[i] = all[i][3]
    end
    local count, start = carried(ids, #ids), 1
    for i = 1, count do
        local lane, following = all[i][4], i < count and all[i + 1][4]
        local lies_in = all[i][5] or lane
        from[lies_in] = (from[lies_in] or 0) + 1
        if not following or string.sub(following, 2) ~= string.sub(lane, 2) then -- a run of one queue
            grant(ids, string.sub(lane, 2), start, i)
            start = i + 1
        end
    end
    for lies_in, so_many in pairs(from) do
        if type(lies_in) == 'table' then
            take_bundles(lies_in, so_many)
        else
            call('ZREMRANGEBYRANK', P .. 'q:' .. lies_in, 0, so_many - 1)
        end
    end
end

local function take_from(lanes, want)
    local lane = lanes[1]
    if #lanes == 1 and not (bundled and call('EXISTS', P .. 'g:' .. lane) == 1) then
        take_singles(lane, want)
    elseif #lanes == 1 and call('ZCOUNT', P .. 'q:' .. lane, '-inf', now) == 0 then
        take_from_bundles(lane, want)
    else
        take_from_several(lanes, want)
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
    local has_bundles = bundled and ask('HMGET', BUNDLED, names, 1, #names) or {} -- an earlier version forgets lanes that have nothing else
    for i, known in ipairs(ask('SMISMEMBER', LANES, names, 1, #names)) do
        if known == 1 or has_bundles[i] then
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
    local want = limit - took
    if want > 0 and not full then
        take_from(lanes, want)
    end
end
if took > 0 or limit == 0 then -- of nothing: whatever this claimer asked before and is yet to arrive is too late
    call('SET', P .. 'c:' .. (claimer or ''), lease, 'PX', ANSWERS_MS)
end
local next_ms = next_due(groups)
ring_told()
return answer(next_ms)
