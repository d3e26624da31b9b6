"""What people read in chat, by name, so that a translation has one place to begin.

Named fields are filled with ``str.format``; what comes from outside (cards, labels, phrases) is
escaped by the caller, and ``{prefix}`` is what stands before a typed command. Not here: the help
of a command, which stands in its docstring, because discord.py shows it from there; the guide's
status lines, which chat, console and log share (``danzar_gpu.report``); and reasons, which are
made where the decision is made (``danzar_gpu.placement``, ``bot.vision``). `docs/embedding.md`
says what a translation would take.
"""

from __future__ import annotations

# --- what ran into a wall: what happened, then what to do -------------------------------------

DID_YOU_MEAN = "Did you mean `{command}`?"
NOT_HERE = "There is no “{word}” here."
THERE_ARE = "There are: {names}"
TOO_FAST = "⏳ Too fast: again in {seconds:.1f} s."
RUNS_ALREADY = "⏳ This is running already: wait until it has finished."
OWNER_ONLY = "🔒 Only the bot's owner may do this. Ask whoever runs it."
SERVER_ONLY = "🔒 This works in a server only, not in direct messages. Ask there."
LOCKED = "🔒 {reason}"
NOT_ALLOWED = "🔒 You may not do this here. A server manager can."
SWITCHED_OFF = "This command is switched off. The others are in `{prefix}help`."
MISSING = "`{name}` is missing"
NOT_ONE_OF = "“{word}” is not one of {choices}."
QUOTES = (
    "The quotation marks don't go together: put one before and one after what belongs together."
)
NOT_UNDERSTOOD = "“{word}” can't stand here"
WRITE = "{wrong}: write `{usage}`, for example `{example}`."
SEE_HELP = "{what}\nSee `{prefix}help {command}`."
NO_POSTING = (
    "I lack a permission here: I need to send messages, embed links and attach files. A server "
    "manager can give it to my role in this channel."
)
NOT_TAKEN = "⚠️ Discord did not take my answer. Please ask again."
OUR_WORDS = "⚠️ {reason}"
DEFECT = (
    "💥 Sorry, something went wrong that I did not expect. "
    "The log has the details under the reference `{reference}`. Try again, or tell whoever runs me."
)
OLD_COMMANDS = (
    "Discord shows an old list of commands. The bot's owner can renew it with `{prefix}sync`."
)
MAY_NOT_USE = "You may not use this here. A server manager can."

# --- everywhere -------------------------------------------------------------------------------

MORE_LINES = "… and {count} more"

# --- who may ----------------------------------------------------------------------------------

OWNER_IN_DM = "In direct messages only the bot's owner may do this. In a server, its managers may."
NEED = "For this you need {requirement}. Ask a server manager."
PERMISSION_NAMES = {
    "administrator": "Administrator",
    "manage_guild": "Manage Server",
    "manage_channels": "Manage Channels",
}
PERMISSION = "the “{name}” permission"
OR_ROLE = " or the role “{role}”"

# --- about, help, owner -----------------------------------------------------------------------

ABOUT_TITLE = "Danzar"
ABOUT = (
    "Watches a game with local vision models and never takes the GPU memory that the local LLM "
    "needs."
)
ABOUT_VERSION, ABOUT_LICENCE, ABOUT_RUNNING = "Version", "Licence", "Running for"
ABOUT_SOURCE = "Source"
HELP_TITLE = "What I can do"
HELP_MORE = "{name} (more)"
HELP_FOOTER = (
    "{prefix}help COMMAND explains one, with an example. Nearly all work as /slash commands, too. "
    "🔒 asks for a permission."
)
HELP_LINE = "`{command}` {brief}{lock}"
HELP_LOCK = " 🔒"
HELP_GROUP = "{line} · also {names}"
HELP_COMMANDS = "Commands"
HELP_UNKNOWN = "I know no command “{word}”. `{prefix}help` lists all."
HELP_NO_SUB = "There is no “{word}” here. There are: {known}"
SYNCED_HERE = "in this server"
SYNCED_EVERYWHERE = "everywhere (Discord may take a while to show them)"
SYNCED = "🔁 Published {count} slash commands {place}."

# --- the cards --------------------------------------------------------------------------------

TITLE_SIMULATED = "{title} (simulated)"
BAR_PARTS = {
    "llm": "LLM",
    "promised": "promised",
    "ours": "vision",
    "other": "other",
    "free": "free",
}
BAR_LEGEND = (
    "{llm} main LLM · {promised} promised to it · {ours} vision · {other} other programs · "
    "{free} free"
)
BAR_PART = "{square} {name} {size:.1f}"
BAR_FIGURES = "{parts} GB"
NO_READING = "⚠️ The cards were not read yet. Try again in a moment."

STATUS_UNREADABLE = "⚠️ The cards could not be read just now: {reason}"
STATUS_OLD = "{note}\nThe figures below are {age} old."
STATUS_NO_DRIVER = "No NVIDIA driver answers here. `danzar doctor` at the terminal says why."
STATUS_SOURCES = {"simulated": "simulated rig, no real card", "none": "no NVIDIA driver"}
STATUS_AGE = "read {age} ago"
STATUS_MONITORING = {"on": "monitoring on", "off": "monitoring off"}
STATUS_BAR = "`{card}` {bar} {percent:.0f}%"
STATUS_PAGE = "page {page} of {pages}"
STATUS_DEVICE = "Device: {device}"
STATUS_REASON = "Reason: {reason}"

CHOSEN = "chosen in chat: {choices}"
CHOSEN_RESERVATION = "reservation {value} by {who}"
CHOSEN_CARD = "{value} preferred by {who}"
CHOSEN_OFFLOAD = "{model} kept on the CPU by {who}"
CHOSEN_NOTHING = "as configured; nothing was chosen in chat"

PROCESSES_TITLE = "🧾 Who holds GPU memory"
PROCESSES_LEGEND = "{llm} main LLM · {ours} ours · {other} other · {unknown} not visible to us"
PROCESS_OWNERS = {
    "llm": "LLM",
    "ours": "ours",
    "other": "other",
    "unknown": "not visible: another user or container",
}
PROCESSES_NONE = "No GPU device was found."
PROCESSES_CARD = "**{card}**: {used:.1f} of {total:.1f}GB in use"
PROCESSES_CARD_ON = "{heading} (continued)"
PROCESSES_HIDDEN = (
    "**{card}**: {used:.1f}GB in use; the driver lists no processes here (WSL and some "
    "containers hide them)"
)
PROCESSES_NO_ACCOUNT = "The driver keeps no account per process here: only the card's sum is known."
PROCESSES_SOME_UNKNOWN = "What those with a ? hold is not known here."
PROCESSES_REST = "`{size:6.2f}GB` ⬜ the driver itself, and unaccounted"
PROCESS_LINE = "`{size}` {square} {name}{pid}: {owner}"
PROCESS_SIZE = "{size:6.2f}GB"
PROCESS_SIZE_UNKNOWN = "     ?  "
PROCESS_PID = " (pid {pid})"
PROCESS_UNNAMED = "unnamed"

MODELS_TITLE = "🧠 Models"
MODELS_LLM = "Main LLM"
MODEL_OFF = "{state}, holds nothing"
MODEL_OFF_WHY = "{state}, holds nothing: {reason}"
MODEL_ON = "on **{where}**: {reason}"
MODEL_MOVING = "{device} → {target}"
MODEL_UNLOADED = "unloaded"
MODEL_LEASE = "lease {number}, priority {priority}, counted with {size:.2f}GB"
MODEL_CONTEXT = ", beside {size:.2f}GB of CUDA context that our models there share"
MODEL_SIZES = "{predicted:.2f}GB predicted, {measured}"
MODEL_MEASURED = "{size:.2f}GB measured"
MODEL_NOT_MEASURED = "not measured on a card yet"
MODEL_IDLE = "idle for {age}, after {frames}"
MODEL_BUSY = "at work, {frames} so far"
MODEL_BESIDE = "up to {size:.1f}GB more would fit next to it"
MODEL_BESIDE_NOTHING = "nothing more would fit next to it"
LLM_AWAY = "{device} is not here"
LLM_HOLDS = (
    "on **{device}**: holds {held:.2f}GB, {kept:.1f}GB are reserved, {promised:.2f}GB of it still "
    "promised"
)
LLM_SILENT = "its server says nothing: {reason}"
LLM_LOADED = "loaded: **{model}** ({size})"
LLM_SIZE = "{size:.2f}GB"
LLM_SIZE_UNKNOWN = "size unknown"
LLM_EMPTY = "its server has no model loaded"
LLM_UNASKED = "`main_llm_endpoint` in the configuration would name its models"

FIT_TITLE = "📐 Would it fit?"
FIT_A_MODEL, FIT_THE_MODEL = "A model", "the model"
FIT_ANOTHER = "Another {model}"
FIT_NOW = "✅ {what} ({size:.2f}GB) fits on **{device}** now."
FIT_AFTER_MOVES = "🟠 {what} ({size:.2f}GB) fits only if models of ours move."
FIT_NOWHERE = "❌ {what} ({size:.2f}GB) fits on no card."
FIT_ON_CPU = "It would run on the CPU."
FIT_CARD = "✅ fits; {left:.1f}GB would be left beyond what is promised"
FIT_CARD_CONTEXT = (
    "✅ fits, with {context:.2f}GB of CUDA context on top; {left:.1f}GB would be left beyond what "
    "is promised"
)
FIT_NOT = "❌ {problem}"
FIT_MOVES = "↪️ it would fit after **{models}** moved away"
FIT_NO_CARD = "No GPU device was found"
FIT_FOOTER = "a model that was never measured on a card may take {share:.0%} more, and that counts"
FIT_UNKNOWN = "It is not known yet what {model} needs. Give a size in GB instead."

HISTORY_SPANS = {
    "15m": "15 minutes",
    "1h": "hour",
    "24h": "day",
    "7d": "week",
    "30d": "30 days",
    "1y": "year",
}
HISTORY_TITLE = "GPU memory, the last {span}"
HISTORY_HEADING = "📈 {title}"
HISTORY_SINCE = "Since <t:{first:.0f}:t> (<t:{first:.0f}:R>)."
HISTORY_MORE = "The first {count} cards; `{prefix}gpu history 1h cuda:N` shows another."
HISTORY_NO_CARD = "📈 There is no GPU whose memory could be drawn."
HISTORY_EMPTY = (
    "📈 Nothing was read in the last {span} yet: ask again in a minute. `{prefix}gpu status` shows "
    "whether monitoring is on."
)
HISTORY_FAILED = "📈 The picture could not be drawn: {reason}. Try again, or tell whoever runs me."
HISTORY_NO_SPAN = "“{span}” is no time span. There are: {known}."

PROFILE_TITLE = "⏱️ What the models take"
PROFILE_EMPTY = "No model was loaded yet; `{prefix}vision start` loads them."
PROFILE_HEADING, PROFILE_SERVICE = "{model} on {device}", "{service} ({model})"
PROFILE_MEMORY = "memory: {sizes}"
PROFILE_PREDICTED = "{size:.2f}GB predicted"
PROFILE_MEASURED = "{size:.2f}GB measured ({times}×)"
PROFILE_FELL = "ran out when it needed {size:.2f}GB"
PROFILE_TIMES = {
    "load": "load",
    "move": "move here",
    "offload": "leave",
    "park": "park",
    "restore": "come back",
    "trim": "trim",
}
PROFILE_TIMES_LINE = "time: {times}"
PROFILE_TIMING = "{name} {median} ({count}×, {worst} at worst)"
PROFILE_TIMING_ONCE = "{name} {median} (once)"
PROFILE_PACE = "{frames}: {p50:.0f} ms each, 95% within {p95:.0f} ms, 99% within {p99:.0f} ms"
PROFILE_MOVE = "<t:{at:.0f}:R> {kind}: {before} → {after} in {took}, {reason}"
PROFILE_MOVE_IN = "<t:{at:.0f}:R> {kind}: {after} in {took}, {reason}"
PROFILE_FOOTER = "times are medians of what was measured here"
PROFILE_ELSEWHERE = (
    "Profiles are kept by Danzar's own bot only; `{prefix}gpu models` shows the rest."
)

RELOADED_TITLE = "♻️ The configuration was read again"
RELOADED_NOTHING = "Nothing changed: what is in use is what the file says."
RELOADED_CHANGED, RELOADED_WAITING = "In use now", "Needs a restart"
RELOADED_AGAIN = "Started again for it"
RELOAD_REFUSED = "🛑 The configuration was refused, and nothing changed:\n{problems}"
RELOAD_ELSEWHERE = "This bot is not configured by a file of Danzar's."

# --- the live panel ---------------------------------------------------------------------------

PANEL_TITLE = "📟 GPU memory, live"
PANEL_MARK = "live panel"
PANEL_FOOTER = "edited when something changes"
PANEL_OFFLINE = "🔌 Offline since <t:{at}:f>. These are the last figures."
PANEL_PAUSED = "⏸️ **Paused** by {who}: the figures are old."
PANEL_MONITORING_OFF = (
    "🔴 Monitoring is off: the figures stay as they are. `{prefix}gpu monitor` goes on."
)
PANEL_UNREADABLE = "⚠️ The cards can't be read now: {reason}. The figures are old."
PANEL_MORE = "… and {count} more cards: `{prefix}gpu status` has them all."
PANEL_BAR = "{bar} **{percent:.0f}%**"
PANEL_BUSY, PANEL_HEAT, PANEL_POWER = "⚙️ {busy:.0f}% busy", "🌡️ {celsius:.0f} °C", "⚡ {watts:.0f} W"
PANEL_MODELS, PANEL_MODEL = "Models", "**{model}** on {where}"
PANEL_LAST_MOVE, PANEL_MOVE = "Last move", "<t:{at:.0f}:R> {what}"
PANEL_BUTTONS = {
    "refresh": "Refresh",
    "history": "History",
    "processes": "Processes",
    "pause": "Pause",
    "go_on": "Go on",
}
PANEL_ENDED = "This panel has ended. `{prefix}gpu dashboard` posts a new one."
PANEL_POSTED = "📟 The live panel is in <#{channel}>."
PANEL_NOT_YET = "⚠️ The panel is not there yet: {reason}. I go on trying."
PANEL_CLOSED = "📟 The panel has ended."
PANEL_NONE = "📟 There is no panel to end here."
CHANNEL_UNSEEN = "I can't see that channel. Give me the permission to, or choose another."
CHANNEL_ELSEWHERE = "That channel is not in this server. Choose one of this server."
CHANNEL_NOT_YOURS = "You may not post in that channel yourself, so I won't either."
STANDING_FORBIDDEN = (
    "I may not post there: I need to see the channel, send messages and embed links"
)
STANDING_SILENT = "Discord did not answer in time"
STANDING_REFUSED = "Discord: {error}"

# --- buttons ----------------------------------------------------------------------------------

BUTTON_REFRESH, BUTTON_BACK, BUTTON_NEXT = "Refresh", "Previous", "Next"
BUTTON_YES, BUTTON_CANCEL = "Yes", "Cancel"
BUTTON_NOT_YOURS = "These buttons belong to whoever asked. The same command gives you your own."
CANCELLED = "Nothing was changed."
QUESTION = "❓ {warning}"
ON_IT = "⏳ On it …"

# --- acting on memory -------------------------------------------------------------------------

BEFORE, AFTER = "Before", "After"
ACTED_BY = "by {who}"
ACTED_BY_UNDO = "by {who} · {prefix}gpu reset goes back"
NO_MODEL_NAMED = "I know no model “{name}”. There are: {known}."
NO_CARD_NAMED = "There is no card “{name}” here. There are: {known}."
NONE_KNOWN = "none"
NO_FIT_SIZE = "A size is a number of GB between 0.01 and 1024, such as 2.5 or 512MB."
NO_SUCH_SIZE = "How much to reserve is a number of GB between 0 and 1024, or auto."

MONITOR_ON = (
    "🟢 GPU memory monitoring is **on**: a reading every {interval:g} s (sooner while models are "
    "on cards or memory is tight), and a warning above {percent:g}%."
)
MONITOR_OFF = (
    "🔴 GPU memory monitoring is **off**: no readings, no warnings. `{prefix}gpu status` still "
    "reads the cards when it is asked to."
)
LOGGED = "📝 The GPU memory status of {devices} is in the log."
LOGGED_DEVICES = {"one": "1 device", "many": "{count} devices"}

OFFLOAD, OFFLOADED = "Offload", "⬇️ {model} to the CPU"
OFFLOAD_WARNING = (
    "**{model}** would run on the CPU, slower, until `{prefix}gpu restore {model}`; its GPU memory "
    "becomes free."
)
RESTORED = "⬆️ {model} may use a card again"
RESTORE_NOTHING = "{model} was not sent to the CPU: {there}. Nothing was changed."
RESTORE_THERE, RESTORE_NOT_LOADED = "it is on {device}", "it is not loaded"
RESTORE_NO_ROOM = "No card has room now: {reason}. It goes when one has."
TRIMMED, TRIMMED_NOTHING = "🧹 Unused memory given back", "🧹 Nothing to give back"
TRIM_NO_WORKER = "There is no vision worker in this bot."
TRIM_NOTHING = "The vision worker holds no GPU memory: its models are on the CPU."
TRIM_SIMULATED = (
    "The cards are simulated: the models really run on the CPU, and there is nothing to give back."
)
TRIM_DONE = (
    "The vision worker's allocator gave back {freed:.2f}GB: it held {before:.2f}GB and now holds "
    "{after:.2f}GB."
)
RESERVE, RESERVED = "Reserve", "🟪 Reservation changed"
RESERVE_DONE = "Kept for the main LLM: **{before:.1f}GB** before, **{after:.1f}GB** now."
RESERVE_LEARNED = (
    "Kept for the main LLM: **{before:.1f}GB** before, **{after:.1f}GB** now (learned from what it "
    "really uses)."
)
RESERVE_AUTO_WARNING = "The reservation (now {before:.1f}GB) would follow the LLM's observed peak."
RESERVE_LESS_WARNING = (
    "Only {size:g}GB instead of {before:.1f}GB would be kept for the main LLM: vision may take the "
    "rest, and the LLM may run out of memory when it grows."
)
RESERVE_MORE_WARNING = (
    "{size:g}GB instead of {before:.1f}GB would be kept for the main LLM: models of vision on its "
    "card may have to move."
)
PREFERRED = "🎯 Vision's card"
PREFER_DONE = (
    "Vision preferred **{before}** and now prefers **{after}**. A model would go to **{best}** "
    "now: {reason}."
)
RESET, RESET_TITLE = "Reset", "↩️ As configured"
RESET_NOTHING = "↩️ Nothing was chosen in chat: all is as configured."
RESET_WARNING = "What was chosen in chat would be undone:\n{choices}"
RESET_CHOICE = "• {choice}"
RESET_DONE = "Back to the configuration. Undone: {choices}."

FIGURE_CARD = "{card}: {free:.2f}GB free"
FIGURE_PROMISED = ", {size:.2f}GB of it promised to the LLM"
FIGURE_OURS = ", {size:.2f}GB held by vision"
FIGURE_CONTEXT = " ({size:.2f}GB of it CUDA context)"
FIGURE_MODEL = "{model}: {device}, {size:.2f}GB"
FIGURE_MOVING = "{device} → {target} (on its way)"
FIGURE_NOTHING = "no GPU, no models"
ARRIVED = "**{model}** is on **{device}**: {reason}."
ARRIVED_NOT_LOADED = "**{model}** is not loaded: this holds from its next start on."
ARRIVED_LATER = (
    "**{model}** is still on {device}, on its way to {target}; `{prefix}gpu models` shows when it "
    "has arrived."
)

# --- alerts -----------------------------------------------------------------------------------

ALERT_TITLES = {
    "pressure": "GPU memory is nearly full",
    "cpu": "A model runs on the CPU",
    "llm": "The main LLM is short of room",
    "driver": "A GPU or its driver is in trouble",
    "worker": "The vision worker is in trouble",
    "hot": "A GPU is too hot",
    "storage": "Danzar's data is in trouble",
}
ALERT_KINDS = {
    "pressure": "GPU memory is nearly full",
    "cpu": "a model runs on the CPU",
    "llm": "the main LLM is short of room",
    "driver": "a GPU or its driver is in trouble",
    "worker": "the vision worker is in trouble",
    "hot": "a GPU is too hot",
    "storage": "Danzar's data is in trouble",
}
ALERT_GRAVE, ALERT_PLAIN, ALERT_OVER = "🚨 {title}", "⚠️ {title}", "✅ Over: {kind}"
ALERT_WHEN, ALERT_HOW = "When", "How it went"
ALERT_SINCE = "since <t:{opened:.0f}:t> (<t:{opened:.0f}:R>)"
ALERT_SPAN = "<t:{opened:.0f}:t> to <t:{over:.0f}:t>: {age}"
ALERT_STEP = "<t:{at:.0f}:T> {text}"
ALERT_LAST = "Last seen: {text}"
ALERT_ADVICE = {
    "pressure": (
        "`{prefix}gpu processes` shows who holds it; `{prefix}gpu trim` and `{prefix}gpu offload` "
        "free what is ours."
    ),
    "cpu": "It goes back as soon as a card has room; `{prefix}gpu models` shows where that fails.",
    "llm": (
        "Close what else runs on that card (`{prefix}gpu processes`), or promise the LLM less with "
        "`{prefix}gpu reserve`."
    ),
    "driver": "Figures are old until it is mended; `danzar doctor` at the terminal tells more.",
    "storage": "All goes on; `{prefix}gpu log` and the terminal tell what is kept and what is not.",
    "worker": "`{prefix}vision status` shows how it goes on.",
    "hot": "Look after its fans and dust; `{prefix}gpu offload` takes our models off it.",
}
ALERT_FOOTER = "{mark} · {prefix}gpu alerts mute 2h holds new ones back"
ALERT_MARK = "alert {mark}"
ALERT_WORKER_FAILED = "it failed; `{prefix}vision start` tries again"
ALERT_WORKER_AGAIN = "it is started again: {reason}"

ALERTS_TITLE = "🔔 Alerts"
ALERTS_NONE = "No alerts come to this channel. `{prefix}gpu alerts here` changes that."
ALERTS_LEVEL = "**{level}**: {kinds}."
ALERTS_MUTED = "🔕 No new ones until <t:{until:.0f}:f>."
ALERTS_MENTION = "<@&{role}> is mentioned when one opens."
ALERTS_NOW, ALERTS_NOTHING, ALERTS_LINE = "Wrong now", "Nothing.", "• {text}"
ALERTS_HERE = "🔔 Alerts come here: {kinds}."
ALERTS_HERE_MENTION = "🔔 Alerts come here, and mention {role}: {kinds}."
ALERTS_OFF = "🔕 No more alerts here."
ALERTS_OFF_ALREADY = "🔕 There were no alerts here."
ALERTS_FROM_NOW = "🔔 From now on: {kinds}."
ALERTS_MUTE = "🔕 No new alerts until <t:{until:.0f}:f>."
ALERTS_UNMUTE = "🔔 Alerts come again."
ALERTS_NOT_HERE = (
    "No alerts come to this channel, so there is nothing to set: begin with "
    "`{prefix}gpu alerts here`."
)
NO_DURATION = (
    "“{text}” is no time: write 30m, 2h or 1d (at most 30 days), or off to hear alerts again."
)

# --- what slash commands suggest --------------------------------------------------------------

SUGGEST_SPAN = "{span}: the last {words}"
SUGGEST_PLACED = "{name} on {device}"
SUGGEST_STATE = "{name} {state}"
SUGGEST_NAMED = "{name} ({model})"
SUGGEST_CARD = "{device} {name} ({free:.1f}GB free)"
SUGGEST_CARD_SIMULATED = "{device} {name} ({free:.1f}GB free, simulated)"
SUGGEST_PROFILE = "{name} ({count} phrases)"

# --- vision -----------------------------------------------------------------------------------

VISION_TITLE = "👁️ Vision"
VISION_TITLE_SIMULATED = "👁️ Vision (simulated GPUs)"
GPUS_SIMULATED = "simulated GPUs"
VISION_STATES = {"off": "Off", "starting": "Starting", "running": "Running", "failed": "Failed"}
MODEL_STATES = {
    "off": "⚪ off",
    "waiting": "🕓 waiting for memory",
    "loading": "⏳ loading",
    "running": "🟢 running",
    "moving": "🚚 moving",
    "parked": "💤 parked",
    "failed": "🔴 failed",
}
MODEL_STATE_ON = "{state} on {device}"
MEMORY = "Memory: {sizes}"
MEMORY_EXPECTED = "{size:.2f}GB expected"
MEMORY_MEASURED = "{size:.2f}GB measured"
PACE_EACH = ", {milliseconds:.0f} ms each"
FRAMES = "Frames"
FRAMES_LIMIT = "Limit: {limit}"
FRAMES_VALUE = (
    "Source: {source}\n{captured} captured · {analysed} analysed · {unchanged} unchanged · "
    "{dropped} dropped"
)
NO_SOURCE = "none"

STARTING = "👁️ Vision is starting; `{prefix}vision status` shows how far it is."
STARTING_ALREADY = "👁️ Vision is {state} already; `{prefix}vision status` shows more."
STARTED = "👁️ Vision runs; `{prefix}vision look` shows what it sees."
START_FAILED = "👁️ Vision did not start: {reason}"
STOPPING = "👁️ Vision is stopping and gives its memory back."
STOPPED = "👁️ Vision is off and its memory is free; `{prefix}vision start` starts it."
OFF_ALREADY = "👁️ Vision is off already; `{prefix}vision start` starts it."

LOOK_TITLE = "👁️ What I see"
OBJECTS, NO_OBJECTS = "Objects", "None that I know."
INSIGHTS, NO_INSIGHTS = "Insights", "Nothing certain enough."
TIME = "Time"
PLACE_OF_OBJECT = "{confidence:.0%} at ({place})"
MORE_OBJECTS = "{count} more"
FRAME = "frame {sequence}"
AGO = "{age} ago"
NO_MODEL = "no model runs"
UNCHANGED = "unchanged"
PRIVATE = "the picture is private"

ASK_LOOKING = "🔎 Looking for “{phrase}” …"
ASK_TITLE = "🔎 {question}"
ASK_NOTHING = "say what to look for, such as `{prefix}vision ask is the boss near death?`"
ASK_WORDS = {
    "yes": "Yes, as far as I can tell.",
    "likely": "Probably.",
    "unclear": "I can't tell.",
    "unlikely": "Probably not.",
    "no": "No, as far as I can tell.",
}
ASK_BODY = "{word}\n`{bar}` {probability:.0%} “{phrase}”"
ASK_HOW = "How sure is that"
ASK_HOW_BODY = (
    "A guess from one frame: how much better the phrase fits than the best of {count} neutral "
    "ones; 50% is no better. “not”, numbers and who does what are beyond it."
)
ASK_SMALL_MODEL = (
    "{model} is small and knows few words beside those of `{prefix}vision concepts`; "
    "`danzar models pull ViT-B/32` fetches a model that knows more."
)

CONCEPTS_TITLE = "💬 What CLIP chooses from"
CONCEPTS_PROFILE = "**Profile “{name}”**"
CONCEPTS_CHOSEN = "Chosen in chat by {who} {when}; `{prefix}vision concepts reset` goes back"
CONCEPTS_PROFILES, CONCEPTS_IN_PROFILE = "Profiles", "{name} ({count} phrases)"
CONCEPTS_CHANGED = "💬 CLIP chooses from {count} phrases now: {phrases}"
CONCEPTS_UNTIL = "This outlives a restart; `{prefix}vision concepts reset` goes back."
CONCEPTS_RESET = "💬 CLIP chooses from the configuration's {count} phrases again."
NO_PROFILE = "there is no profile “{name}”; there are: {known}"
TOO_FEW_PHRASES = "CLIP chooses between phrases: give two at least, with semicolons between them"
TOO_MANY_PHRASES = "{count} phrases are too many: {most} at most"
LONG_PHRASE = "“{phrase}” is too long: {most} characters at most"

CLASSES_TITLE = "📦 What YOLO looks for"
CLASS_SEEN = "**{name}**: {count} on the newest frame, {confidence:.0%} at best"
CLASS_NOT_SEEN = "**{name}**: not on the newest frame"
CLASS_NO_FRAME = "**{name}**"
CLASSES_MODEL = "{state}: {reason}"
CLASSES_FOOTER = "from {threshold:.0%} on · yolo.classes in the configuration says which"

TIMELINE_TITLE = "🕓 Lately"
TIMELINE_EMPTY = "Nothing was seen yet; `{prefix}vision status` says why."
TIMELINE_MOMENT = "{time} **{phrase}**{probability} for {span}{objects}"
TIMELINE_NOW = "{time} **{phrase}**{probability} for {span} so far{objects}"
TIMELINE_UNCERTAIN = "nothing certain"

WATCH_LIST_TITLE = "🔔 What I watch for here"
WATCH_NONE = (
    'Nothing yet. `{prefix}vision watch "low health"` tells this channel when that appears; '
    "so does the name of a class, such as `boss`."
)
WATCH_LINE = "`{number}` **{what}** ({kind}) {where}: {state}"
WATCH_HERE, WATCH_THERE_IN = "here", "in <#{channel}>"
WATCH_KINDS = {"class": "object", "phrase": "phrase"}
WATCH_THERE = "there since {since}"
WATCH_AWAY = "not there"
WATCH_FOOTER = "{prefix}vision watch remove NUMBER ends one"
WATCH_TROUBLE = "Phrases can't be scored at present: {reason}"
WATCH_ADDED = (
    "🔔 I tell this channel when **{what}** ({kind}) is there for {sustain:g} s. "
    "`{prefix}vision watch remove {number}` ends it."
)
WATCH_ADDED_ALREADY = "🔔 That is watched here already: number {number}."
WATCH_VISION_OFF = "Vision is {state} at present: `{prefix}vision start` starts it."
WATCH_REMOVED = "🔕 I watch for **{what}** no more."
WATCH_UNKNOWN = "there is no watch number {number} here; `{prefix}vision watch list` shows them"
WATCH_EMPTY = "say what to watch for: a phrase such as `low health`, or a class such as `boss`"
SIGHTING_TITLE = "🔔 {what}"
SIGHTING_THERE = "🔴 **There** since {since}"
SIGHTING_GONE = "⚪ **Gone** since {since}"
SIGHTING_BEST = "`{bar}` {probability:.0%} at best"
SIGHTING_TIMES = "seen {count} times"
SIGHTING_FOOTER = "watch {number} · {prefix}vision watch remove {number} ends it"
