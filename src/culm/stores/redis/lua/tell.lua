-- Whoever awaits an outcome is told with the commit: one message per channel, of netstrings (id, what `o:` holds or '').
local told, anybody = {}, nil

local function somebody_waits()
    if anybody == nil then
        anybody = call('EXISTS', WAITS) == 1
    end
    return anybody
end

local function netstring(s)
    return #s .. ':' .. s
end

local function tell(id, channels, value)
    if not channels then
        return
    end
    call('HDEL', WAITS, id)
    local message = netstring(id) .. netstring(value)
    for channel in string.gmatch(channels, '[^\n]+') do
        told[channel] = (told[channel] or '') .. message
    end
end

local function publish_told()
    for channel, message in pairs(told) do
        call('PUBLISH', channel, message)
    end
end
