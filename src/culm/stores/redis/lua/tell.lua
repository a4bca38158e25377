-- Whoever awaits an outcome is told with the commit: one message per channel, a MessagePack array: an id, a text; what `outcomes` holds
-- of it, or '', a binary; and so on. Most are written by the worker (wire.py), these by the server: it alone knows who looked.
local told, heard, anybody = {}, {}, nil

local function somebody_waits()
    if anybody == nil then
        anybody = call('HLEN', WAITS) > 1 -- the first has no name
    end
    return anybody
end

local function sized(mark, text)
    return mark .. struct.pack('>I4', #text) .. text
end

local function words_of(id, value)
    return sized('\219', id) .. sized('\198', value)
end

local function add_to(channel, words)
    local message = told[channel]
    if message then
        message[#message + 1] = words
    else
        told[channel] = { words }
    end
end

local function tell(id, channels, value)
    if not channels then
        return
    end
    heard[#heard + 1] = id
    local words = words_of(id, value)
    if string.find(channels, '\n', 1, true) then
        for channel in string.gmatch(channels, '[^\n]+') do
            add_to(channel, words)
        end
    else
        add_to(channels, words)
    end
end

local function publish_told()
    many('HDEL', WAITS, heard, 1, #heard)
    for channel, message in pairs(told) do
        call('PUBLISH', channel, '\221' .. struct.pack('>I4', 2 * #message) .. table.concat(message))
    end
end
