-- Cancel open jobs of a queue. ARGV: now, queue, ledger, limit -> how many were; less than the limit: all
local cancelled, limit = 0, tonumber(ARGV[4])
ledger = ARGV[3] == '1'
for priority = 9, 0, -1 do
    local members = call('ZRANGE', P .. 'q:' .. priority .. ARGV[2], 0, limit - cancelled - 1)
    for _, member in ipairs(cancelled < limit and members or {}) do
        cancel(string.sub(member, 17))
        cancelled = cancelled + 1
    end
end
ring_told()
return cancelled
