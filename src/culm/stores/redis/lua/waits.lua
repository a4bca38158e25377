-- What stands between a job and its next start. ARGV: now, id, scopes...
-- -> how many of its queue are claimed before it ('': it is not open, or waits for a release), then for each trigger that has not fired:
--    scope, need, reached, and of each topic that is not reached: topic, how many events reach it, how many there are
local id, answers = ARGV[2], { '' }
local row = row_of(id)
if not row or row.finished then
    return answers
end
if not row.lease and row.due < INF then
    local ahead, moment = call('ZRANK', P .. 'q:' .. row.lane, row.n .. id) or 0, string.format('%.0f', math.max(now, row.due))
    for priority = tonumber(string.sub(row.lane, 1, 1)) + 1, 9 do
        ahead = ahead + call('ZCOUNT', P .. 'q:' .. priority .. row.queue, '-inf', moment)
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
