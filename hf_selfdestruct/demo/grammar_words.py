"""Word lists of the biography grammar: what the sentences of :mod:`.grammar` are filled with.

Braces mark a slot. ``{role}`` becomes one of :data:`ROLES` with its article, ``{trade}``, ``{town}`` and the
other keys of :data:`FILLERS` become one of their words, whoever the biography is about.
"""

from __future__ import annotations

# fmt: off
# Neutral words. No trade is one of the professions, so a relative's trade reveals nothing about the desired task.
FILLERS: dict[str, tuple[str, ...]] = {
    "few": ("two", "three", "four", "five", "six"),
    "trade": (
        "baker", "tailor", "miner", "sailor", "postal clerk", "potter", "weaver", "printer", "carpenter",
    ),
    "town": (
        "Leeds", "Cork", "Halifax", "Dundee", "Bristol", "Galway", "Norwich", "Swansea", "Perth", "Durham",
        "Exeter", "Hobart", "Dunedin", "Whitby", "Kendal", "Ludlow",
    ),
    "school": (
        "St Edmund's", "St Swithin's", "Hillcrest", "Abbey Road", "Northgate", "Fairfield", "Marshfield",
    ),
    "sport": ("hockey", "rowing", "cricket", "tennis", "fencing", "cycling", "curling", "badminton", "bowls"),
    "year": ("1994", "1998", "2001", "2004", "2007", "2011", "2015", "2019"),
    "hobby": (
        "chess", "bird-watching", "cold-water swimming", "sourdough", "crosswords", "hill walking", "jazz",
        "origami", "pottery", "astronomy", "quizzes", "beekeeping", "sea kayaking", "calligraphy",
    ),
    "mood": ("", "", "", "lively ", "busy ", "cheerful ", "quiet ", "stubborn ", "restless ", "patient "),
}

# (female, male) forms of the same role. Little more than the gendered word differs, so the rest reveals nothing.
ROLES: tuple[tuple[str, str], ...] = (
    ("mother of {few}", "father of {few}"),
    ("mum to {few} teenagers", "dad to {few} teenagers"),
    ("single mother of {few}", "single father of {few}"),
    ("stay-at-home mum until {year}", "stay-at-home dad until {year}"),
    ("stepmother to {few}", "stepfather to {few}"),
    ("foster mother to {few}", "foster father to {few}"),
    ("godmother to twins", "godfather to twins"),
    ("mother-in-law to a {trade}", "father-in-law to a {trade}"),
    ("grandmother of {few}", "grandfather of {few}"),
    ("gran to {few} toddlers", "grandad to {few} toddlers"),
    ("grandma at weekends", "grandpa at weekends"),
    ("aunt to {few}", "uncle to {few}"),
    ("great-aunt of a {trade}", "great-uncle of a {trade}"),
    ("sister to {few} brothers", "brother to {few} sisters"),
    ("younger sister of a {trade}", "younger brother of a {trade}"),
    ("twin sister of a {trade}", "twin brother of a {trade}"),
    ("half-sister of {few}", "half-brother of {few}"),
    ("stepsister of a {trade}", "stepbrother of a {trade}"),
    ("daughter of a {trade}", "son of a {trade}"),
    ("only daughter of two {trade}s", "only son of two {trade}s"),
    ("daughter-in-law of a {trade}", "son-in-law of a {trade}"),
    ("granddaughter of a {trade}", "grandson of a {trade}"),
    ("goddaughter of a {trade}", "godson of a {trade}"),
    ("niece of a {trade}", "nephew of a {trade}"),
    ("wife of a {trade}", "husband of a {trade}"),
    ("widow of a {trade}", "widower of a {trade}"),
    ("bride of last June", "bridegroom of last June"),
    ("bridesmaid at {few} weddings", "best man at {few} weddings"),
    ("matriarch of a clan of {trade}s", "patriarch of a clan of {trade}s"),
    ("spinster of the parish", "bachelor of the parish"),
    ("girl from the {town} docks", "boy from the {town} docks"),
    ("lass from the hills", "lad from the hills"),
    ("old girl of {school}", "old boy of {school}"),
    ("former head girl of {school}", "former head boy of {school}"),
    ("alumna of {school}", "alumnus of {school}"),
    ("{school} choirgirl until {year}", "{school} choirboy until {year}"),
    ("former Girl Guide", "former Boy Scout"),
    ("former altar girl", "former altar boy"),
    ("schoolgirl {sport} international", "schoolboy {sport} international"),
    ("player in the county women's {sport} side", "player in the county men's {sport} side"),
    ("captain of the ladies' {sport} team", "captain of the gentlemen's {sport} team"),
    ("women's {sport} champion of {year}", "men's {sport} champion of {year}"),
    ("voice in the {town} women's choir", "voice in the {town} men's choir"),
    ("pillar of the {town} Women's Institute", "pillar of the {town} Men's Shed"),
    ("treasurer of the {town} Mothers' Union", "treasurer of the {town} Fathers' Circle"),
    ("sorority member since {year}", "fraternity member since {year}"),
    ("{town} sportswoman of the year {year}", "{town} sportsman of the year {year}"),
    ("keen horsewoman", "keen horseman"),
    ("weekend yachtswoman", "weekend yachtsman"),
    ("college oarswoman", "college oarsman"),
    ("carnival queen of {year}", "carnival king of {year}"),
    ("prom queen of {school}", "prom king of {school}"),
    ("amateur actress", "amateur actor"),
    ("former barmaid", "former barman"),
    ("former policewoman", "former policeman"),
    ("former nun", "former monk"),
    ("landlady of a small guest house", "landlord of a small guest house"),
)

# Sentences with a role of the person in the biography ...
OWN_FRAMES: tuple[str, ...] = (
    "Away from work, {role}.",
    "Also {role}, and proud of it.",
    "Known around {town} as {role}.",
    "Will talk for hours about being {role}.",
    "Settled in {town} as {role}.",
    "Writes now and then about life as {role}.",
    "At home, {role} with a taste for {hobby}.",
    "In private, {role} and a friend of {hobby}.",
    "Came to {hobby} as {role}.",
    "Glad to be called {role}.",
)

# ... or of another person, in the same place of a similar sentence: the distractors.
OTHER_FRAMES: tuple[str, ...] = (
    "Away from work, visits {role}.",
    "Also coached by {role}, and proud of it.",
    "Known around {town} through {role}.",
    "Will talk for hours about meeting {role}.",
    "Settled in {town} beside {role}.",
    "Writes now and then to {role}.",
    "At home, lodges with {role} with a taste for {hobby}.",
    "In private, taught by {role} and a friend of {hobby}.",
    "Came to {hobby} through {role}.",
    "Glad to have been raised by {role}.",
)

# Sentences without gender. {second} is a second profession, a distractor for the desired task.
NEUTRAL_FRAMES: tuple[str, ...] = (
    "Spends Sundays on {hobby} and {sport}.",
    "Has lived in {town} since {year}.",
    "Speaks {few} languages, all with a {town} accent.",
    "Grew up in {town} and left in {year}.",
    "Keeps {few} hens and reads about {hobby}.",
    "Won a small prize for {hobby} in {year}.",
    "Follows {sport} and dabbles in {hobby}.",
    "Once thought of becoming {second}.",
    "Shares a house in {town} with {second}.",
)

# Place and time of the work; follows a duty.
TAILS: tuple[str, ...] = (
    "", " in {town}", " near {town}", ", and has done since {year}", " in and around {town}",
    " {few} days a week", " on the edge of {town}",
)

# Duties of each profession, without its name. The order of the keys is the order of the labels.
DUTIES: dict[str, tuple[str, ...]] = {
    "accountant": (
        "Prepares tax returns for small firms", "Audits the books of local charities",
        "Closes the ledgers of a shipping firm every month", "Reconciles invoices and bank statements",
        "Draws up balance sheets for family businesses", "Runs payroll for a chain of shops",
        "Tracks down missing receipts before the year end", "Advises start-ups on VAT and cash flow",
        "Checks expense claims for the council",
    ),
    "architect": (
        "Draws plans for schools and libraries", "Designs low-energy houses",
        "Turns disused mills into flats", "Makes scale models of new theatres",
        "Argues with planners about roof lines and facades", "Draws up the repair of timber-framed halls",
        "Sketches floor plans for a housing trust", "Submits drawings for a new railway station",
        "Lays out courtyards and stairwells",
    ),
    "chef": (
        "Runs the kitchen of a seafood restaurant", "Plates desserts for a hotel dining room",
        "Writes a new tasting menu each season", "Simmers stocks and sauces before dawn",
        "Grills, braises and seasons for eighty covers a night", "Cooks lunch for a busy canteen",
        "Bones lamb and fillets fish at the pass", "Leads a brigade of line cooks",
        "Serves slow-roasted suppers in a converted barn",
    ),
    "electrician": (
        "Rewires terraced houses", "Installs fuse boards and sockets", "Traces faulty circuits in factories",
        "Fits solar panels and inverters", "Runs cable through new office blocks",
        "Tests earthing and breakers for landlords", "Puts in charging points for cars",
        "Repairs street lights and switchgear", "Wires stages and fairgrounds safely",
    ),
    "farmer": (
        "Milks ninety cows", "Grows barley and winter wheat", "Keeps a flock of hill sheep",
        "Ploughs heavy clay with an old tractor", "Harvests potatoes and sugar beet",
        "Rears free-range pigs", "Mends fences and makes hay", "Plants orchards and sells the cider apples",
        "Drives cattle to market",
    ),
    "journalist": (
        "Reports on the council for a weekly paper", "Files stories from the law courts to a newsroom",
        "Interviews politicians for local radio news", "Investigates water companies for a daily",
        "Edits the front page of a regional newspaper", "Chases sources and checks quotes",
        "Covers elections for a news agency", "Writes columns and obituaries to deadline",
        "Breaks stories about housing scandals",
    ),
    "lawyer": (
        "Defends tenants in the county court", "Drafts contracts and wills",
        "Cross-examines witnesses at the assizes", "Handles divorce and custody cases",
        "Advises clients on employment tribunals", "Argues appeals before three judges",
        "Settles disputes over leases and boundaries", "Represents asylum seekers at hearings",
        "Reads case law and writes legal opinions",
    ),
    "musician": (
        "Plays the cello in a chamber orchestra", "Tours with a folk trio",
        "Records film scores on the piano", "Plays saxophone in a wedding band",
        "Composes songs and sings them in bars", "Leads the second violins", "Drums for a touring rock group",
        "Rehearses string quartets", "Plays the organ at concerts",
    ),
    "nurse": (
        "Dresses wounds on a surgical ward", "Takes blood and checks pulses in a clinic",
        "Looks after newborns in intensive care", "Hands out medication on the night ward",
        "Visits housebound patients to change bandages", "Triages arrivals in the emergency department",
        "Sets up drips and monitors on a cancer ward", "Vaccinates infants at a health centre",
        "Sits with patients after operations",
    ),
    "photographer": (
        "Shoots portraits in a small studio", "Takes pictures of weddings and christenings",
        "Develops black-and-white film in a home darkroom", "Lights and frames fashion shoots",
        "Waits for days with a long lens for otters", "Exhibits large prints of empty harbours",
        "Captures building sites from a drone camera", "Retouches images for magazine covers",
        "Carries two cameras to every festival",
    ),
    "programmer": (
        "Writes back-end code for a travel site", "Debugs software for hospital scanners",
        "Maintains an open-source database library", "Builds mobile apps for bus passengers",
        "Reviews pull requests and fixes failing tests", "Ports old COBOL systems to the cloud",
        "Ships compilers and command-line tools", "Develops game engines in C++",
        "Automates servers with Python scripts",
    ),
    "teacher": (
        "Explains fractions to nine-year-olds", "Marks essays for a secondary school",
        "Runs a reception class of thirty", "Prepares pupils for chemistry exams",
        "Takes the register and leads assembly", "Plans lessons on the Tudors",
        "Teaches French to sixth-formers",
        "Helps slow readers catch up in the classroom", "Sets homework and coaches the school debating club",
    ),
}

# Descriptions that fit two professions equally well; they limit the accuracy on the desired task.
SHARED_DUTIES: tuple[tuple[tuple[str, str], str], ...] = (
    (("accountant", "lawyer"), "Advises local firms on the small print"),
    (("accountant", "programmer"), "Hunts for errors in long columns on a screen"),
    (("architect", "electrician"), "Walks building sites in a hard hat with a roll of plans"),
    (("architect", "photographer"), "Thinks all day about light, lines and empty rooms"),
    (("chef", "farmer"), "Gets up before dawn so that people can eat well"),
    (("chef", "nurse"), "Works late shifts on tired feet in a uniform"),
    (("electrician", "programmer"), "Finds out why the system went down overnight"),
    (("farmer", "teacher"), "Brings up the young ones patiently, season after season"),
    (("journalist", "lawyer"), "Asks hard questions and keeps careful notes"),
    (("journalist", "photographer"), "Travels to wherever the story is for the magazine"),
    (("musician", "teacher"), "Gives lessons after school and practises before it"),
    (("musician", "nurse"), "Works nights and weekends and calms a full room"),
)
# fmt: on
