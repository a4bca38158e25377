-- Move the ends of leases. ARGV: now, for_ms, then (id, lease) each -> a letter each: h held, l lost, c cancelled
local answers, ids = {}, {}
despite_full_memory()
in_grace(ARGV[2])
for i = 3, #ARGV, 2 do
    ids[#ids + 1] = ARGV[i]
end
for i, held in ipairs(ask('HMGET', HELD, ids, 1, #ids)) do
    local lease = ARGV[2 * i + 2]
    answers[i] = 'l'
    if held and lease ~= '' and string.sub(held, 2) == lease then
        local row = row_of(ids[i])
        if row then
            call('ZADD', P .. 'u:' .. row.queue, now + ARGV[2], row.n .. row.id)
            answers[i] = row.cancelled == 1 and 'c' or 'h'
        end
    end
end
return table.concat(answers)
