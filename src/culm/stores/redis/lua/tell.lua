-- Whoever awaits an outcome is told with the commit: one message per channel, of netstrings (id, what `outcomes` holds or '').
local told, heard, anybody = {}, {}, nil

local function somebody_waits()
    if anybody == nil then
        anybody = call('EXISTS', WAITS) == 1
    end
    return anybody
end

local function tell(id, channels, value)
    if not channels then
        return
    end
    heard[#heard + 1] = id
    for channel in string.gmatch(channels, '[^\n]+') do
        local message = told[channel] or {}
        told[channel] = message
        message[#message + 1] = #id .. ':' .. id .. #value .. ':' .. value
    end
end

local function publish_told()
    many('HDEL', WAITS, heard, 1, #heard)
    for channel, message in pairs(told) do
        call('PUBLISH', channel, table.concat(message))
    end
end
