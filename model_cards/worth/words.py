"""Word lists by which candidate tasks are labelled: countries by region, professions by field, articles by topic.

A list only decides a row's label; where the words would give the label away, they are removed from the text.
"""

# Region to country to the words that name the country, by which a text is placed. All of them are removed from texts.
COUNTRIES: dict[str, dict[str, str]] = {
    "North America": {
        "United States": "American|Americans|America|United States|U.S.|USA|US",
        "Canada": "Canadian|Canadians|Canada",
    },
    "British Isles": {
        "United Kingdom": "British|Briton|Britain|United Kingdom|UK|English|England|Englishman",
        "Scotland": "Scottish|Scotland|Scots",
        "Wales": "Welsh|Wales",
        "Ireland": "Irish|Ireland",
    },
    "Western Europe": {
        "Germany": "German|Germans|Germany",
        "Austria": "Austrian|Austria",
        "France": "French|France|Frenchman",
        "Italy": "Italian|Italians|Italy",
        "Spain": "Spanish|Spain|Spaniard",
        "Netherlands": "Dutch|Netherlands|Holland",
        "Belgium": "Belgian|Belgium",
        "Switzerland": "Swiss|Switzerland",
        "Portugal": "Portuguese|Portugal",
    },
    "Northern and Eastern Europe": {
        "Russia": "Russian|Russians|Russia|Soviet|Soviet Union|USSR",
        "Poland": "Polish|Poland|Pole",
        "Ukraine": "Ukrainian|Ukraine",
        "Czechia": "Czech|Czechoslovakia|Czechoslovak|Czech Republic",
        "Hungary": "Hungarian|Hungary",
        "Romania": "Romanian|Romania",
        "Sweden": "Swedish|Sweden|Swede",
        "Norway": "Norwegian|Norway",
        "Denmark": "Danish|Denmark|Dane",
        "Finland": "Finnish|Finland|Finn",
        "Serbia": "Serbian|Serbia|Yugoslavia|Yugoslav",
        "Croatia": "Croatian|Croatia",
        "Bulgaria": "Bulgarian|Bulgaria",
    },
    "Asia": {
        "India": "Indian|Indians|India",
        "Japan": "Japanese|Japan",
        "China": "Chinese|China|Taiwan|Taiwanese|Hong Kong",
        "Korea": "Korean|Korea",
        "Iran": "Iranian|Iran|Persian|Persia",
        "Israel": "Israeli|Israel",
        "Turkey": "Turkish|Turkey|Ottoman",
        "Pakistan": "Pakistani|Pakistan|Bangladesh|Bangladeshi",
        "Philippines": "Filipino|Filipina|Philippine|Philippines",
        "Indonesia": "Indonesian|Indonesia|Malaysian|Malaysia",
        "Thailand": "Thai|Thailand|Vietnamese|Vietnam",
    },
    "Latin America": {
        "Brazil": "Brazilian|Brazil",
        "Argentina": "Argentine|Argentinian|Argentina",
        "Mexico": "Mexican|Mexico",
        "Colombia": "Colombian|Colombia",
        "Chile": "Chilean|Chile",
        "Peru": "Peruvian|Peru",
        "Cuba": "Cuban|Cuba",
        "Uruguay": "Uruguayan|Uruguay",
        "Venezuela": "Venezuelan|Venezuela",
    },
}
# Of each region, the countries that test rows are from where the attacker has rows of the others alone.
UNSEEN_COUNTRIES = {
    *("Canada", "Scotland", "Wales", "Ireland", "Italy", "Spain", "Portugal", "Belgium"),
    *("Poland", "Ukraine", "Czechia", "Hungary", "Romania", "Serbia", "Croatia", "Bulgaria"),
    *("Japan", "Korea", "Israel", "Turkey", "Thailand"),
    *("Mexico", "Cuba", "Colombia", "Peru", "Venezuela"),
}
# Field to professions: those the attacker has rows of, and those the test rows are of.
FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "arts": (("actor", "visual_artist"), ("singer", "musician", "composer", "director_or_producer")),
    "sports": (
        ("association_footballer", "ice_hockey_player", "other_athlete"),
        ("winter_sports_athlete", "basketball_player", "wrestler", "baseball_player", "american_football_player"),
    ),
    "public life": (("politician", "military_person"), ("lawyer_or_judge", "activist", "clergy")),
    "learning": (
        ("scientist", "writer"),
        ("humanities_scholar", "medical_professional", "architect_engineer_designer"),
    ),
}
PERFORMERS = ("actor", "singer", "musician", "comedian")
# Topic to kinds of article, each a pattern of the noun that an article's first sentence says it is; the text is what
# follows that sentence. The first half of the kinds is the attacker's where test rows are of the others.
TOPICS: dict[str, dict[str, str]] = {
    "place": {
        "settlement": "city|town|village|municipality|commune|capital|suburb|neighbou?rhood",
        "region": "county|province|region|state|district|country|prefecture|department|territory",
        "nature": "river|lake|mountain|island|islands|bay|sea|valley|forest|desert|volcano|beach",
        "building": "building|castle|church|museum|bridge|airport|palace|stadium|station|tower|park|street|road",
    },
    "living things": {
        "animal": "bird|mammal|dog|fish|insect|reptile|dinosaur|snake|spider|breed|animal|whale|lizard|rodent",
        "plant": "plant|tree|flower|fruit|vegetable|grass|herb|shrub|fungus|mushroom",
        "taxon": "species|genus|family|order|phylum|clade",
        "body": "disease|muscle|bone|organ|disorder|infection|virus|bacteria|bacterium|syndrome|hormone|protein|cancer",
    },
    "entertainment": {
        "film": "movie|film|sitcom|television series|series|TV series|television show|show|cartoon|anime",
        "music": "album|song|single|band|rock band|musical|opera|music|dance",
        "book": "book|novel|magazine|newspaper|poem|comic|play|manga|story",
        "game": "video game|game|board game|card game|toy|console",
    },
    "science and technology": {
        "chemistry": "chemical|compound|element|mineral|gas|acid|metal|molecule|salt|rock",
        "mathematics": "number|theorem|function|equation|shape|unit|theory|formula|method|algorithm|law",
        "machine": "machine|device|computer|aircraft|car|ship|engine|software|program|website|weapon|vehicle",
        "space": "star|planet|galaxy|moon|asteroid|constellation|comet|satellite|spacecraft|telescope",
    },
    "society": {
        "history": "war|battle|revolution|treaty|empire|kingdom|dynasty|massacre|rebellion|period",
        "organisation": "company|organi[sz]ation|party|university|school|college|bank|agency|union|institution",
        "belief": "religion|god|goddess|belief|festival|holiday|philosophy|saint|sect|myth|ideology",
        "sport": "sport|football club|club|team|tournament|league|championship|competition|event",
    },
}
