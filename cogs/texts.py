"""What people read in chat, by name, so that a translation has one place to begin.

``{}`` fields are filled with ``str.format``; what comes from outside (cards, labels, phrases) is
escaped by the caller. Not here: the help of a command, which stands in its docstring, because
discord.py shows it from there, and reasons, which are made where the decision is made
(``danzar_gpu.placement``, ``bot.vision``); `docs/embedding.md` says what a translation would take.
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
TOO_MUCH = "That is more than the command takes."
MISSING = "`{name}` is missing."
UNREADABLE = "That could not be read."
SEE_HELP = "{what}\nSee `{prefix}help {command}`."
NO_POSTING = (
    "I lack a permission here: I need to send messages, embed links and attach files. A server "
    "manager can give it to my role in this channel."
)
OUR_WORDS = "⚠️ {reason}"
DEFECT = (
    "💥 Sorry, something went wrong that I did not expect. "
    "The log has the details under the reference `{reference}`. Try again, or tell whoever runs me."
)
OLD_COMMANDS = "Discord shows an old list of commands. The bot's owner can renew it: `sync`."
MAY_NOT_USE = "You may not use this here. A server manager can."

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

ABOUT = (
    "Watches a game with local vision models and never takes the GPU memory that the local LLM "
    "needs."
)
ABOUT_VERSION, ABOUT_LICENCE, ABOUT_RUNNING = "Version", "Licence", "Running for"
ABOUT_SOURCE = "Source"
HELP_TITLE = "What I can do"
HELP_MORE = "{name} (more)"
HELP_FOOTER = "{prefix}help COMMAND explains one, with an example. Most work as /slash commands."
HELP_COMMANDS = "Commands"
HELP_UNKNOWN = "I know no command “{word}”. `{prefix}help` lists all."
HELP_NO_SUB = "There is no “{word}” here. There are: {known}"
SYNCED_HERE = "in this server"
SYNCED_EVERYWHERE = "everywhere (Discord may take a while to show them)"
SYNCED = "🔁 Published {count} slash commands {place}."

# --- vision -----------------------------------------------------------------------------------

SIMULATED_GPUS = " (simulated GPUs)"
VISION_TITLE = "👁️ Vision"
VISION_STATES = {"off": "Off", "starting": "Starting", "running": "Running", "failed": "Failed"}
MODEL_STATES = {
    "off": "⚪ off",
    "waiting": "🕓 waiting for memory",
    "loading": "⏳ loading",
    "running": "🟢 running",
    "moving": "🚚 moving",
    "failed": "🔴 failed",
}
MEMORY = "Memory: {sizes}"
MEMORY_EXPECTED = "{size:.2f}GB expected"
MEMORY_MEASURED = "{size:.2f}GB measured"
PACE = "{frames} frames"
PACE_EACH = ", {milliseconds:.0f} ms each"
FRAMES = "Frames"
FRAMES_VALUE = (
    "Source: {source}\n{captured} captured · {analysed} analysed · {unchanged} unchanged · "
    "{dropped} dropped"
)
NO_SOURCE = "none"

STARTING = "👁️ Vision is starting; `vision status` shows how far it is."
STARTING_ALREADY = "👁️ Vision is {state} already; `vision status` shows more."
STARTED = "👁️ Vision runs; `vision look` shows what it sees."
START_FAILED = "👁️ Vision did not start: {reason}"
STOPPING = "👁️ Vision is stopping and gives its memory back."
STOPPED = "👁️ Vision is off and its memory is free; `vision start` starts it."
OFF_ALREADY = "👁️ Vision is off already; `vision start` starts it."

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
ASK_NOTHING = "say what to look for, such as `vision ask is the boss near death?`"
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
    "{model} is small and knows few words beside those of `vision concepts`; "
    "`danzar models pull ViT-B/32` fetches a model that knows more."
)

CONCEPTS_TITLE = "💬 What CLIP chooses from"
CONCEPTS_PROFILE = "Profile “{name}”"
CONCEPTS_CHOSEN = "Chosen in chat until the next start"
CONCEPTS_PROFILES = "Profiles"
CONCEPTS_CHANGED = "💬 CLIP chooses from {count} phrases now: {phrases}"
CONCEPTS_UNTIL = "This holds until the bot's next start; `vision concepts reset` ends it sooner."
CONCEPTS_RESET = "💬 CLIP chooses from the configuration's {count} phrases again."
NO_PROFILE = "there is no profile “{name}”; there are: {known}"
TOO_FEW_PHRASES = "CLIP chooses between phrases: give two at least, with semicolons between them"
TOO_MANY_PHRASES = "{count} phrases are too many: {most} at most"
LONG_PHRASE = "“{phrase}” is too long: {most} characters at most"

CLASSES_TITLE = "📦 What YOLO looks for"
CLASS_SEEN = "**{name}**: {count} on the newest frame, {confidence:.0%} at best"
CLASS_NOT_SEEN = "**{name}**: not on the newest frame"
CLASS_NO_FRAME = "**{name}**"
CLASSES_FOOTER = "from {threshold:.0%} on · `yolo.classes` in the configuration says which"

TIMELINE_TITLE = "🕓 Lately"
TIMELINE_EMPTY = "Nothing was seen yet; `vision status` says why."
TIMELINE_MOMENT = "{time} **{phrase}**{probability} for {span}{objects}"
TIMELINE_NOW = "{time} **{phrase}**{probability} since {span}{objects}"
TIMELINE_UNCERTAIN = "nothing certain"

WATCH_LIST_TITLE = "🔔 What I watch for here"
WATCH_NONE = (
    'Nothing yet. `{prefix}vision watch "low health"` tells this channel when that appears; '
    "so does the name of a class, such as `boss`."
)
WATCH_LINE = "`{number}` **{what}** ({kind}) in {channel}: {state}"
WATCH_KINDS = {"class": "object", "phrase": "phrase"}
WATCH_THERE = "there since {since}"
WATCH_AWAY = "not there"
WATCH_FOOTER = "`vision watch remove NUMBER` ends one. They end with the bot's process."
WATCH_TROUBLE = "Phrases can't be scored at present: {reason}"
WATCH_ADDED = (
    "🔔 I tell this channel when **{what}** ({kind}) is there for {sustain:g} s. "
    "`vision watch remove {number}` ends it; so does the bot's next start."
)
WATCH_ADDED_ALREADY = "🔔 That is watched here already: number {number}."
WATCH_VISION_OFF = "Vision is {state} at present: `vision start` starts it."
WATCH_REMOVED = "🔕 I watch for **{what}** no more."
WATCH_UNKNOWN = "there is no watch number {number} here; `vision watch list` shows them"
WATCH_EMPTY = "say what to watch for: a phrase such as `low health`, or a class such as `boss`"
ALERT_TITLE = "🔔 {what}"
ALERT_THERE = "🔴 **There** since {since}"
ALERT_GONE = "⚪ **Gone** since {since}"
ALERT_BEST = "`{bar}` {probability:.0%} at best"
ALERT_TIMES = "seen {count} times"
ALERT_FOOTER = "watch {number} · vision watch remove {number} ends it"
