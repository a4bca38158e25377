-- Bundles: jobs that were sent together, to one lane and due at once. `g:<lane>` has them by due, up to 100 in a member, which is the `n` of its
-- first and their ids, a line each; the `n` of each is one more than that of the one before. `bundled` says how many jobs each lane has there.
-- What leaves a member before it is claimed is cut out of it.

local function bundles_of(lane)
    return P .. 'g:' .. lane
end

-- Add up to `most - count` of a member's ids, one at least, to a list of `count` -> how many it has now; where the others begin
local function unfold(member, ids, count, most)
    local at = 17
    repeat
        local ends = string.find(member, '\n', at, true)
        count = count + 1
        ids[count] = string.sub(member, at, (ends or 0) - 1)
        at = ends and ends + 1 or #member + 1
    until not ends or count == most
    return count, at
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

-- What a lane has in bundles that is due until then, the earliest first: `want` jobs at most. -> nil: nothing. `lines`: their ids as one text,
-- if that was at hand.
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
    local first = found.members[1]
    if first and not found.members[2] and found.rest_from > #first then
        found.lines = string.sub(first, 17)
    end
    return first and found
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

-- When the first of a lane's jobs is due; now, if it is the first of a bundle that is. `bundled`: there are bundles.
local function first_due(lane, bundled)
    local due, key = tonumber(call('ZRANGE', P .. 'q:' .. lane, 0, 0, 'WITHSCORES')[2]) or INF, bundles_of(lane)
    if not bundled or call('EXISTS', key) == 0 then
        return due
    elseif call('ZCOUNT', key, '-inf', NOW) > 0 then
        return math.min(due, now)
    end
    return math.min(due, tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])) -- the server's clock went back
end
