-- What stands between a job and its next start. ARGV: now, id, scopes...
-- -> how many of its queue are claimed before it ('': it is not open, or waits for a release), then for each trigger that has not fired:
--    scope, need, reached, and of each topic that is not reached: topic, how many events reach it, how many there are
local MOST_COUNTED = 1000 -- one by one
local id, answers = ARGV[2], { '' }
local row = row_of(id)
if not row or row.finished then
    return answers
end

-- How many of its own lane are before it that are in no bundle.
local function singles_ahead()
    local key, due = P .. 'q:' .. row.lane, string.format('%.0f', row.due)
    local ahead = call('ZRANK', key, row.n .. id)
    if ahead then
        return ahead
    end
    ahead = call('ZCOUNT', key, '-inf', '(' .. due)
    for _, member in ipairs(call('ZRANGEBYSCORE', key, due, due, 'LIMIT', 0, MOST_COUNTED)) do
        ahead = ahead + (string.sub(member, 1, 16) < row.n and 1 or 0)
    end
    return ahead
end

-- How many of its own lane are before it that are in bundles. Of many bundles, about.
local function bundled_ahead()
    local count, last = bundles_until(row.lane, row.due, row.n)
    if last then
        return jobs_between(row.lane, 0, count - 2) + math.min(unfold(last, {}, 0), place_after(last, row.n))
    end
    return jobs_between(row.lane, 0, count - 1)
end

if not row.lease and row.due < INF then
    local ahead, moment = singles_ahead() + bundled_ahead(), string.format('%.0f', math.max(now, row.due))
    for priority = tonumber(string.sub(row.lane, 1, 1)) + 1, 9 do
        local lane = priority .. row.queue
        ahead = ahead + call('ZCOUNT', P .. 'q:' .. lane, '-inf', moment) + bundled_until(lane, moment)
    end
    answers[1] = ahead
end

local function awaited(scope, tid, waiting)
    local found = { scope, waiting.need, tonumber(call('HGET', P .. 's:' .. scope, 'c' .. tid)) }
    for _, topic in ipairs(waiting.topics) do
        local count = call('HGET', event_key('a:', scope, topic), tid)
        if count then
            local at = #found
            found[at + 1], found[at + 2], found[at + 3] = topic, tonumber(count), call('HLEN', event_key('e:', scope, topic))
        end
    end
    return found
end

for i = 3, #ARGV do
    local scope = ARGV[i]
    local key = P .. 's:' .. scope
    for _, field in ipairs(call('HKEYS', key)) do
        if string.sub(field, 1, 1) == 'w' then
            local waiting = cmsgpack.unpack(call('HGET', key, field))
            if waiting.id == id then
                answers[#answers + 1] = awaited(scope, string.sub(field, 2), waiting)
            end
        end
    end
end
return answers
