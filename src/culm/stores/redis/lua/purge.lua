-- Cancel open jobs of a queue, in the order in which they were sent. ARGV: now, queue, ledger, limit
-- -> how many were; less than the limit: all. Of more than the limit, those of one lane go before the next.
local members, limit = {}, tonumber(ARGV[4])
ledger = ARGV[3] == '1'

local function purge_bundles(lane)
    local found = bundles_in(lane, limit - #members, '+inf')
    if found then
        each_bundled(found, function(_, n, id)
            members[#members + 1] = n .. id
        end)
        take_bundles(found, found.count)
    end
end

for priority = 9, 0, -1 do
    if #members < limit then
        local lane = P .. 'q:' .. priority .. ARGV[2]
        for _, member in ipairs(call('ZRANGE', lane, 0, limit - #members - 1)) do
            members[#members + 1] = member
            call('ZREM', lane, member) -- here: a broken record does not know its lane
        end
    end
    if #members < limit then
        purge_bundles(priority .. ARGV[2])
    end
end
table.sort(members)
for _, member in ipairs(members) do
    cancel(string.sub(member, 17), true)
end
ring_told()
return #members
