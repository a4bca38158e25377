-- Remove what is over. ARGV: now, limit -> how many jobs, tombstones and scopes went
local limit, swept = tonumber(ARGV[2]), 0

local function over(key)
    local some = call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit - swept)
    if #some > 0 then
        call('ZREMRANGEBYRANK', key, 0, #some - 1)
    end
    swept = swept + #some
    return some
end

for _, id in ipairs(over(EXPIRE)) do
    forget(id)
end
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
for _, lane in ipairs(call('SRANDMEMBER', LANES, 10)) do -- a name that nobody uses any more
    if call('EXISTS', P .. 'q:' .. lane, P .. 'u:' .. string.sub(lane, 2)) == 0 then
        call('SREM', LANES, lane)
        call('UNLINK', P .. 'm:' .. string.sub(lane, 2))
    end
end
return swept
