-- Jobs that were sent together, to one lane and due at once, lie together: `g:<lane>` has them by due, up to 100 in a member, which is the
-- `n` of its first and their ids, a line each. `grouped` says how many each lane has there. What leaves a member before it is claimed is cut out of it.
local function members_of(lane)
    return P .. 'g:' .. lane
end

-- Add a member's ids to a list of `count` -> how many it has now
local function unfold(member, ids, count)
    local first = count + 1
    for id in string.gmatch(member, '[^\n]+') do
        count = count + 1
        ids[count] = id
    end
    ids[first] = string.sub(ids[first], 17)
    return count
end

-- The `n` of what is left of a member when so many of its first went: no greater than that of any of these.
local function later(member, used)
    return string.sub(member, 1, 12) .. string.format('%04x', tonumber(string.sub(member, 13, 16), 16) + used)
end

local function ungroup(lane, count)
    if call('HINCRBY', GROUPED, lane, -count) <= 0 then
        call('HDEL', GROUPED, lane)
    end
end

-- What a lane has in groups, the earliest due first: as many members as it takes for `want` jobs. -> nil: nothing is due
local function groups_in(lane, want)
    local jobs, key = tonumber(call('HGET', GROUPED, lane)), members_of(lane)
    local members = jobs and call('ZCARD', key) or 0
    if members == 0 then
        call('HDEL', GROUPED, lane)
        return nil
    end
    local found = { lane = lane, members = {}, ids = {}, ends = {}, count = 0 }
    repeat
        local most = math.max(1, math.ceil((want - found.count) * members / jobs))
        local some = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', #found.members, most)
        for _, member in ipairs(some) do
            found.count = unfold(member, found.ids, found.count)
            found.members[#found.members + 1], found.ends[#found.ends + 1] = member, found.count
        end
    until #some < most or found.count >= want
    return found.count > 0 and found or nil
end

-- The first `count` jobs of these leave their lane.
local function take_groups(found, count)
    local key, whole = members_of(found.lane), 0
    while whole < #found.members and found.ends[whole + 1] <= count do
        whole = whole + 1
    end
    local used = count - (found.ends[whole] or 0)
    if used > 0 then
        local cut = found.members[whole + 1]
        local due, rest = call('ZSCORE', key, cut), table.concat(found.ids, '\n', count + 1, found.ends[whole + 1])
        call('ZREMRANGEBYRANK', key, 0, whole)
        call('ZADD', key, due, later(cut, used) .. rest)
    else
        call('ZREMRANGEBYRANK', key, 0, whole - 1)
    end
    ungroup(found.lane, count)
end

-- How many members of a lane are due before (due, n), or are the one in which this is; and that one.
local function members_until(lane, due, n)
    local key, at = members_of(lane), due == INF and 'inf' or string.format('%.0f', due)
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

-- An open job leaves its group, if it is in one. -> whether it was
local function leave_group(row)
    if call('HEXISTS', GROUPED, row.lane) == 0 then
        return false
    end
    local _, member = members_until(row.lane, row.due, row.n)
    local ids, rest = {}, {}
    for i = 1, member and unfold(member, ids, 0) or 0 do
        if ids[i] ~= row.id then
            rest[#rest + 1] = ids[i]
        end
    end
    if #rest == #ids then
        return false
    end
    local key = members_of(row.lane)
    local due = call('ZSCORE', key, member)
    call('ZREM', key, member)
    if #rest > 0 then
        call('ZADD', key, due, string.sub(member, 1, 16) .. table.concat(rest, '\n'))
    end
    ungroup(row.lane, 1)
    return true
end
