-- Bundles, job by job: how many there are, which is where, and how one leaves.
local MOST_READ = 100 -- members that are read to count their jobs

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
