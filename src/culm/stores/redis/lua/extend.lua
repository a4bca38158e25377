-- Move the ends of leases. ARGV: now, for_ms, then (id, lease) each -> a letter each: h held, l lost, c cancelled
local answers, ids, until_ms, bounds = {}, {}, now + ARGV[2], {}
despite_full_memory()
in_grace(ARGV[2])
for i = 3, #ARGV, 2 do
    ids[#ids + 1] = ARGV[i]
end
local ends = string.format('%.0f', until_ms)
local states = ask('HMGET', STATE, ids, 1, #ids)
for i, held in ipairs(ask('HMGET', HELD, ids, 1, #ids)) do
    local lease = ARGV[2 * i + 2]
    answers[i] = 'l'
    if held and lease ~= '' and lease_in(held) == lease then
        local queue = queue_in(held)
        if not bounds[queue .. '\n' .. lease] then
            bounds[queue .. '\n' .. lease] = true
            ends_sooner(lease, queue, until_ms)
        end
        call('HSET', P .. 'x:' .. queue, ids[i], ends)
        answers[i] = states[i] and is_cancelled(states[i]) and 'c' or 'h'
    end
end
return table.concat(answers)
