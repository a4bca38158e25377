-- Bundles: jobs that were sent together, to one lane and due at once. `g:<lane>` has them by due, up to 100 in a member, which is the `n` of its
-- first and their ids, a line each; the `n` of each is one more than that of the one before. `bundled` says how many jobs each lane has there.
-- What leaves a member before it is claimed is cut out of it.

local function bundles_of(lane)
    return P .. 'g:' .. lane
end

-- The ids of a member, how many they are, and the same as one text, a line each. Most are equally long: one call takes them apart.
local function ids_in(member)
    local size = (string.find(member, '\n', 17, true) or #member + 1) - 16
    local count = (#member - 15) / size
    if count <= TOGETHER and count % 1 == 0 then
        local one = 'c' .. size - 1
        local ids = { struct.unpack(string.rep(one .. 'x', count - 1) .. one, member, 17) }
        ids[count + 1] = nil -- where it came to
        local lines = table.concat(ids, '\n')
        if string.find(member, lines, 17, true) == 17 then
            return ids, count, lines
        end
    end
    local ids, n, lines = {}, 0, string.sub(member, 17)
    for id in string.gmatch(lines, '[^\n]+') do
        n = n + 1
        ids[n] = id
    end
    return ids, n, lines
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

-- Add what of a member is not too many to `found`: to its ids and its `count`. `lines`: these as one text, while they are all of one member.
local function add_member(found, member, want)
    local ids, n, lines = ids_in(member)
    if found.count == 0 and n <= want then
        found.ids, found.count, found.lines = ids, n, lines
        return
    end
    local used = math.min(n, want - found.count)
    for i = 1, used do
        found.ids[found.count + i] = ids[i]
    end
    found.count, found.lines = found.count + used, nil
    found.rest_from = 18 + #table.concat(ids, '\n', 1, used)
end

-- What a lane has in bundles that is due until then, the earliest first: `want` jobs at most. -> nil: nothing
local function bundles_in(lane, want, until_ms)
    local found, most = { lane = lane, members = {}, dues = {}, ids = {}, ends = {}, count = 0 }, math.ceil(want / TOGETHER) + 1
    repeat
        local asked, last = most, #found.members
        local some = call('ZRANGEBYSCORE', bundles_of(lane), '-inf', until_ms, 'WITHSCORES', 'LIMIT', last, asked)
        for i = 1, #some, 2 do
            if found.count < want then
                last = last + 1
                found.members[last], found.dues[last] = some[i], some[i + 1]
                add_member(found, some[i], want)
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
    local beyond = found.rest_from and string.sub(found.members[last], found.rest_from) or '' -- what of the last was too many
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
