-- A batch of new plain roots, in columns; all of them are answered `applied`.
-- ARGV: now, client, number, commits, jobs (n), keys of their records (n), tails of these (n), then lane by lane: lane, its queue,
-- how many jobs, each its due as (after, at, index and id); how many lanes precedes. Ids (n) last.
-- -> the answers, a letter each; or 0: one was not as expected, nothing was written
local client, n = P .. 'b:' .. ARGV[2], tonumber(ARGV[5])
local known = call('GET', client)
local last, answered = string.match(known or '', '^(%d+) (%a*)$')
if known and tonumber(ARGV[3]) <= tonumber(last) then
    return ARGV[3] == last and answered or string.rep('l', tonumber(ARGV[4]))
end

local function none(command, key)
    if call('EXISTS', key) == 1 then
        for _, found in ipairs(ask(command, key, ARGV, #ARGV - n + 1, #ARGV)) do
            if found then
                return false
            end
        end
    end
    return true
end

for i = 6, 5 + n, CHUNK do
    if call('EXISTS', unpack(ARGV, i, math.min(i + CHUNK - 1, 5 + n))) > 0 then
        return 0
    end
end
if not none('ZMSCORE', TOMBS) or not none('ZMSCORE', SCOPES) then
    return 0
end
-- Every check is done: from here on, all of it happens.
local seq = string.format('%012x', call('INCR', P .. 'n'))
local head, records, at_once = string.format('%015.0f', now) .. seq, {}, string.format('%.0f', now)
for i = 1, n do
    records[2 * i - 1], records[2 * i] = ARGV[5 + i], head .. ARGV[5 + n + i]
end
for i = 1, 2 * n, CHUNK do
    call('MSET', unpack(records, i, math.min(i + CHUNK - 1, 2 * n)))
end
local at = 7 + 2 * n
for _ = 1, tonumber(ARGV[6 + 2 * n]) do
    local lane, queue, jobs, members, rings = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), {}, false
    at = at + 3
    for i = 1, 2 * jobs, 2 do
        local after, due = ARGV[at], INF
        if after == '0' and ARGV[at + 1] == '0' then
            due, rings = at_once, true
        elseif after ~= '-' then
            due, rings = math.max(now + after, tonumber(ARGV[at + 1])), true
        end
        members[i], members[i + 1] = due, seq .. ARGV[at + 2]
        at = at + 3
    end
    many('ZADD', P .. 'q:' .. lane, members, 1, 2 * jobs)
    call('SADD', LANES, lane)
    if rings then
        ring(queue)
    end
end
local answers = string.rep('a', tonumber(ARGV[4]))
call('SET', client, ARGV[3] .. ' ' .. answers, 'PX', ANSWERS_MS)
return answers
