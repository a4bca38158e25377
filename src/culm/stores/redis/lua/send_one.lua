-- A batch of one new plain root, in as few commands as it takes; `send.lua` for one.
-- ARGV: now, client, number, id, tail of its record, lane, its queue, due after ('-': a release), due at
-- -> its answer; or 0: it was not as expected, nothing was written
local call, client, number = redis.call, P .. 'b:' .. ARGV[2], ARGV[3]
local known = call('SET', client, number .. ' a', 'PX', '86400000', 'GET')

local function as_before()
    if known then
        call('SET', client, known, 'PX', '86400000')
    else
        call('DEL', client)
    end
end

if known then
    local last = string.match(known, '^%d+')
    if tonumber(number) <= tonumber(last) then
        as_before()
        return number == last and string.sub(known, #last + 2) or 'l'
    end
end
local now, text = tonumber(ARGV[1]), ARGV[1]
if not now then
    local time = call('TIME')
    text = time[1] .. (#time[2] == 6 and string.sub(time[2], 1, 3) or string.format('%03d', math.floor(time[2] / 1000)))
    now = tonumber(text)
end
local seq, id, tail, queue, after = string.format('%012x', call('INCR', P .. 'n')), ARGV[4], ARGV[5], ARGV[7], ARGV[8]
local record = '\148\207' .. struct.pack('>I8', now) .. '\176' .. seq .. tail
local found = call('EXISTS', P .. 'm:' .. queue, P .. 'tombs', P .. 'tombs', P .. 'scopes', P .. 'scopes') -- 1: the marker only
if found > 1 or call('HSETNX', P .. 'jobs', id, record) == 0 then
    as_before()
    return 0
end
local due = after == '-' and 'inf' or after == '0' and ARGV[9] == '0' and text or string.format('%.0f', math.max(now + after, tonumber(ARGV[9])))
call('ZADD', P .. 'q:' .. ARGV[6], due, seq .. string.sub(tail, 1, 4) .. id)
call('SADD', P .. 'lanes', ARGV[6])
if after ~= '-' and found == 0 then
    call('ZADD', P .. 'm:' .. queue, '0', '1')
end
return 'a'
