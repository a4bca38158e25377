-- A batch of new plain roots, in columns; all of them are answered `applied`.
-- ARGV: now, client, number, '1' if no job can have one of these ids, commits, jobs (n), their ids (n), tails of their records (n), then
-- for each group of these, in that order: lane, its queue, due after ('-': a release), due at, how many
-- -> the answers, a letter each; or 0: one was not as expected, nothing was written
local MANY, SMALL = 10, 128 -- new members that are worth a few calls; a server keeps a list no longer than that
local client, n = P .. 'b:' .. ARGV[2], tonumber(ARGV[6])
local known = call('GET', client)
local last = known and string.match(known, '^%d+')
if known and tonumber(ARGV[3]) <= tonumber(last) then
    return ARGV[3] == last and string.sub(known, #last + 2) or string.rep('l', tonumber(ARGV[5]))
end

local function known_to(command, key)
    for _, found in ipairs(ask(command, key, ARGV, 7, 6 + n)) do
        if found then
            return true
        end
    end
    return false
end

if ARGV[4] ~= '1' and known_to('HMGET', JOBS) then
    return 0
end
if call('EXISTS', TOMBS, SCOPES) > 0 and (known_to('ZMSCORE', TOMBS) or known_to('ZMSCORE', SCOPES)) then
    return 0
end
-- Every check is done: from here on, all of it happens.
local head, records = record_head(), {}
local seq = string.sub(head, 12)
for i = 1, n do
    records[2 * i - 1], records[2 * i] = ARGV[6 + i], head .. ARGV[6 + n + i]
end
many('HSET', JOBS, records, 1, 2 * n)

-- `n` and id of each.
local function add_each(lane, score, first, last)
    local key, members, m = P .. 'q:' .. lane, {}, 0
    for i = first, last do
        members[m + 1], members[m + 2], m = score, seq .. string.sub(ARGV[i + n], 1, 4) .. ARGV[i], m + 2
    end
    local small = m >= 2 * MANY and call('ZCARD', key) < SMALL
    if small then -- a small sorted set is a list, which is walked for each member, until one is longer than its server likes
        call('ZADD', key, 'inf', ROOMY)
    end
    many('ZADD', key, members, 1, m)
    if small then
        call('ZREM', key, ROOMY)
    end
end

local function place_of(i)
    return tonumber(string.sub(ARGV[i + n], 1, 4), 16)
end

local function add_bundles(lane, score, first, last)
    for i = first, last, TOGETHER do
        local id = ARGV[i]
        ARGV[i] = seq .. string.sub(ARGV[i + n], 1, 4) .. id -- so that the ids become one text once
        call('ZADD', P .. 'g:' .. lane, score, table.concat(ARGV, '\n', i, math.min(i + TOGETHER - 1, last)))
        ARGV[i] = id
    end
    call('HINCRBY', BUNDLED, lane, last - first + 1)
end

local first = 7
for at = 7 + 2 * n, #ARGV, 5 do
    local lane, queue, after, last = ARGV[at], ARGV[at + 1], ARGV[at + 2], first + ARGV[at + 4] - 1
    local due = after == '-' and INF or math.max(now + after, tonumber(ARGV[at + 3]))
    local in_bundles = due == now and last - first + 1 >= MANY and place_of(last) - place_of(first) == last - first -- none is between them
    local add = in_bundles and add_bundles or add_each
    add(lane, due == INF and 'inf' or due == now and NOW or string.format('%.0f', due), first, last)
    first = last + 1
    call('SADD', LANES, lane)
    if due < INF then
        ring(queue)
    end
end
local answers = string.rep('a', tonumber(ARGV[5]))
call('SET', client, ARGV[3] .. ' ' .. answers, 'PX', ANSWERS_MS)
return answers
