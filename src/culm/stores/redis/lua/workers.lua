-- The workers that show themselves; the others are forgotten. ARGV: now -> id, info, ...
local all, shown = call('HGETALL', P .. 'workers'), {}
for i = 1, #all, 2 do
    local ends, info = string.match(all[i + 1], '^(%d+)\n(.*)$')
    if tonumber(ends) > now then
        shown[#shown + 1], shown[#shown + 2] = all[i], info
    else
        call('HDEL', P .. 'workers', all[i])
    end
end
return shown
