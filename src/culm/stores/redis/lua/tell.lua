-- Whoever awaits an outcome is told with the commit: one message per channel,
-- a MessagePack array of binaries: id, what `outcomes` holds or '', and so on.
local told, heard, anybody = {}, {}, nil

local function somebody_waits()
    if anybody == nil then
        anybody = call('HLEN', WAITS) > 1 -- the first has no name
    end
    return anybody
end

local function binary(text)
    return '\198' .. struct.pack('>I4', #text) .. text
end

local function tell(id, channels, value)
    if not channels then
        return
    end
    heard[#heard + 1] = id
    for channel in string.gmatch(channels, '[^\n]+') do
        local message = told[channel] or {}
        told[channel] = message
        message[#message + 1] = binary(id) .. binary(value)
    end
end

local function publish_told()
    many('HDEL', WAITS, heard, 1, #heard)
    for channel, message in pairs(told) do
        call('PUBLISH', channel, '\221' .. struct.pack('>I4', 2 * #message) .. table.concat(message))
    end
end
