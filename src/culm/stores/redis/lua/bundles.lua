-- Bundles: jobs that were sent together, to one lane and due at once. `g:<lane>` has them by due, up to 100 in a member, which is the `n` of its
-- first and their ids, a line each; the `n` of each is one more than that of the one before. `bundled` says how many jobs each lane has there.
-- What leaves a member before it is claimed is cut out of it.
local MOST_READ = 100 -- members that are read to count their jobs

local function bundles_of(lane)
    return P .. 'g:' .. lane
end

-- Add up to `most - count` of a member's ids to a list of `count` -> how many it has now; where the others begin
local function unfold(member, ids, count, most)
    local first, rest_from = count + 1, #member + 1
    for id, ends in string.gmatch(member, '([^\n]+)()') do
        count = count + 1
        ids[count] = id
        if count == most then
            rest_from = ends + 1
            break
        end
    end
    ids[first] = string.sub(ids[first], 17)
    return count, rest_from
end

-- The `n` of the one that so many of a member are before.
local function later(member, used)
    return string.sub(member, 1, 12) .. string.format('%04x', tonumber(string.sub(member, 13, 16), 16) + used)
end

local function unbundle(lane, count)
    if call('HINCRBY', BUNDLED, lane, -count) <= 0 then
        call('HDEL', BUNDLED, lane)
        local left = call('ZCARD', bundles_of(lane))
        if left > 0 then
            call('HSET', BUNDLED, lane, left) -- somebody else changed the count: no lane is lost for that
        end
    end
end

-- What a lane has in bundles that is due until then, the earliest first: `want` jobs at most. -> nil: nothing
local function bundles_in(lane, want, until_ms)
    local found, most = { lane = lane, members = {}, dues = {}, ids = {}, ends = {}, count = 0 }, math.ceil(want / TOGETHER)
    repeat
        local asked, last = most, #found.members
        local some = call('ZRANGEBYSCORE', bundles_of(lane), '-inf', until_ms, 'WITHSCORES', 'LIMIT', last, asked)
        for i = 1, #some, 2 do
            if found.count < want then
                last = last + 1
                found.members[last], found.dues[last] = some[i], some[i + 1]
                found.count, found.rest_from = unfold(some[i], found.ids, found.count, want)
                found.ends[last] = found.count
            end
        end
        most = 2 * asked
    until #some < 2 * asked or found.count >= want
    return found.count > 0 and found or nil
end

-- The first `count` jobs of these leave their lane.
local function take_bundles(found, count)
    local key, whole, last = bundles_of(found.lane), 0, #found.members
    local beyond = string.sub(found.members[last], found.rest_from) -- what of the last was too many
    while whole < last and found.ends[whole + 1] <= count and (whole + 1 < last or beyond == '') do
        whole = whole + 1
    end
    local used = count - (found.ends[whole] or 0)
    if used > 0 then
        local cut = whole + 1
        local rest, more = table.concat(found.ids, '\n', count + 1, found.ends[cut]), cut == last and beyond or ''
        call('ZREMRANGEBYRANK', key, 0, whole)
        call('ZADD', key, found.dues[cut], later(found.members[cut], used) .. rest .. (rest ~= '' and more ~= '' and '\n' or '') .. more)
    elseif whole > 0 then
        call('ZREMRANGEBYRANK', key, 0, whole - 1)
    end
    unbundle(found.lane, count)
end

-- How many jobs a lane has in its members from one rank to another; of more than a hundred members, about.
local function jobs_between(lane, from, to)
    local key, count = bundles_of(lane), 0
    if to - from >= MOST_READ then
        return math.floor((call('HGET', BUNDLED, lane) or 0) * (to - from + 1) / call('ZCARD', key) + 0.5)
    end
    for _, member in ipairs(from <= to and call('ZRANGE', key, from, to) or {}) do
        count = count + 1 + select(2, string.gsub(member, '\n', ''))
    end
    return count
end

-- How many jobs a lane has in bundles that are due until then: all, unless the server's clock went back.
local function bundled_until(lane, until_ms)
    local jobs = tonumber(call('HGET', BUNDLED, lane))
    if not jobs then
        return 0, 0
    end
    local late_from, members = call('ZCOUNT', bundles_of(lane), '-inf', until_ms), call('ZCARD', bundles_of(lane))
    jobs = members > 0 and jobs or 0
    local late = late_from < members and jobs_between(lane, late_from, members - 1) or 0
    return jobs - late, late
end

-- When the first of a lane's jobs is due; now, if it is the first of a bundle that is. `bundled`: there are bundles.
local function first_due(lane, bundled)
    local due = tonumber(call('ZRANGE', P .. 'q:' .. lane, 0, 0, 'WITHSCORES')[2]) or INF
    if not bundled then
        return due
    elseif call('ZCOUNT', bundles_of(lane), '-inf', now) > 0 then
        return math.min(due, now)
    end
    return math.min(due, tonumber(call('ZRANGE', bundles_of(lane), 0, 0, 'WITHSCORES')[2]) or INF) -- the server's clock went back
end

-- Call `use` with due, `n` and id of each of these.
local function each_bundled(found, use)
    local at = 0
    for i, member in ipairs(found.members) do
        for place = 0, found.ends[i] - at - 1 do
            use(tonumber(found.dues[i]), later(member, place), found.ids[at + place + 1])
        end
        at = found.ends[i]
    end
end

-- How many members of a lane are not after (due, n); and the last of them, if it is due then.
local function bundles_until(lane, due, n)
    local key, at = bundles_of(lane), due == INF and 'inf' or string.format('%.0f', due)
    local low, high, last = call('ZCOUNT', key, '-inf', '(' .. at), call('ZCOUNT', key, '-inf', at) - 1, nil
    while low <= high do
        local middle = math.floor((low + high) / 2)
        local member = call('ZRANGE', key, middle, middle)[1]
        if string.sub(member, 1, 16) <= n then
            low, last = middle + 1, member
        else
            high = middle - 1
        end
    end
    return low, last
end

-- How many places of its batch that is after the first of a member; of another batch: INF
local function place_after(member, n)
    return string.sub(member, 1, 12) == string.sub(n, 1, 12) and tonumber(string.sub(n, 13), 16) - tonumber(string.sub(member, 13, 16), 16) or INF
end

-- An open job leaves its bundle, if it is in one.
local function leave_bundle(row)
    if call('EXISTS', bundles_of(row.lane)) == 0 then
        return
    end
    local _, member = bundles_until(row.lane, row.due, row.n)
    local ids, place = {}, member and place_after(member, row.n) or INF
    local count = place < INF and unfold(member, ids, 0) or 0
    if ids[place + 1] ~= row.id then
        return
    end
    local key = bundles_of(row.lane)
    local due = call('ZSCORE', key, member)
    call('ZREM', key, member)
    if place > 0 then
        call('ZADD', key, due, string.sub(member, 1, 16) .. table.concat(ids, '\n', 1, place))
    end
    if place + 1 < count then
        call('ZADD', key, due, later(member, place + 1) .. table.concat(ids, '\n', place + 2, count))
    end
    unbundle(row.lane, 1)
end
