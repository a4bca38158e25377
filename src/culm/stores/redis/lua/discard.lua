-- Forget dead letters. ARGV: now, ids... -> how many were
local discarded = 0
for i = 2, #ARGV do
    if call('ZREM', DEAD, ARGV[i]) == 1 then
        forget(ARGV[i])
        discarded = discarded + 1
    end
end
return discarded
