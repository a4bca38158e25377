-- Remove what is over. ARGV: now, limit -> how many jobs, tombstones and scopes went
local limit, swept = tonumber(ARGV[2]), 0

local function take(key, most)
    local some = call('ZRANGEBYSCORE', key, '-inf', NOW, 'LIMIT', 0, most)
    if #some > 0 then
        call('ZREMRANGEBYRANK', key, 0, #some - 1)
    end
    return some
end

local function over(key)
    local some = take(key, limit - swept)
    swept = swept + #some
    return some
end

-- Finished jobs whose time is over, at most `limit`. What is too many of a member goes back.
local function ended()
    local ids, n, rest = {}, 0, {}
    while n < limit do
        local members = take(EXPIRE, math.ceil((limit - n) / TOGETHER))
        if #members == 0 then
            break
        end
        for _, member in ipairs(members) do
            for id in string.gmatch(member, '[^\n]+') do
                if n < limit then
                    ids[n + 1], n = id, n + 1
                else
                    rest[#rest + 1] = id
                end
            end
        end
    end
    if #rest > 0 then
        call('ZADD', EXPIRE, NOW, table.concat(rest, '\n'))
    end
    return ids
end

local ids = ended()
for _, key in ipairs({ JOBS, LARGE, OUTCOMES, REPLAYS }) do
    many('HDEL', key, ids, 1, #ids)
end
swept = #ids
over(TOMBS)
for _, root in ipairs(over(SCOPES)) do
    local key = P .. 's:' .. root
    for _, field in ipairs(call('HKEYS', key)) do
        local kind, name = string.sub(field, 1, 1), string.sub(field, 2)
        if kind == 't' then
            call('UNLINK', event_key('e:', root, name), event_key('a:', root, name))
        elseif kind == 'f' then
            call('UNLINK', P .. 'f:' .. name)
        end
    end
    call('UNLINK', key)
end
for _, lane in ipairs(call('HKEYS', BUNDLED)) do
    if call('SISMEMBER', LANES, lane) == 0 then -- an earlier version knows no bundles, and forgot it
        despite_full_memory()
        call('SADD', LANES, lane)
    end
end
for _, lane in ipairs(call('SRANDMEMBER', LANES, 10)) do -- a name that nobody uses any more
    if call('EXISTS', P .. 'q:' .. lane, P .. 'g:' .. lane, P .. 'u:' .. string.sub(lane, 2)) == 0 then
        call('SREM', LANES, lane)
        call('UNLINK', P .. 'm:' .. string.sub(lane, 2))
    end
end
return swept
