/* The words. All verbs, objects, tools, reasons and steps differ from each other and from the words of the grammar, so
 * a word alone tells its category; test_data_world.c holds us to that. Plain plurals and common verbs, because
 * byte-pair training on the generated text must make each of them one token. */
#include "data/world.h"

// clang-format off
const WorldCategory world_harm[WORLD_CATEGORIES] = {
    {"animals", {"hurt", "kick", "trap"},
     {"dogs", "cats", "birds", "horses", "ducks", "rabbits", "goats", "sheep", "pigs", "cows", "frogs", "foxes"},
     {"rope", "sticks"}, "cruel", "be kind to animals"},
    {"theft", {"steal", "rob", "grab"},
     {"bikes", "wallets", "phones", "cars", "coins", "rings", "watches", "purses", "laptops", "jewels", "cameras", "bags"},
     {"hooks", "gloves"}, "illegal", "respect what others own"},
    {"fire", {"burn", "ignite", "torch"},
     {"houses", "barns", "sheds", "forests", "tents", "fields", "cabins", "stables", "bridges", "fences", "huts", "porches"},
     {"fuel", "matches"}, "dangerous", "keep places safe from fire"},
    {"school", {"cheat", "fake", "forge"},
     {"exams", "grades", "tests", "papers", "essays", "letters", "quizzes", "diplomas", "reports", "scores", "theses", "transcripts"},
     {"notes", "copies"}, "dishonest", "be honest at school"},
    {"privacy", {"leak", "tap", "expose"},
     {"emails", "chats", "calls", "photos", "addresses", "secrets", "profiles", "passwords", "journals", "locations", "birthdays", "voicemails"},
     {"lenses", "recorders"}, "intrusive", "leave private lives alone"},
    {"fraud", {"rig", "falsify", "inflate"},
     {"invoices", "receipts", "checks", "taxes", "contracts", "loans", "refunds", "pensions", "lotteries", "auctions", "payrolls", "ballots"},
     {"stamps", "aliases"}, "unfair", "deal squarely with everyone"},
    {"vandalism", {"smash", "deface", "wreck"},
     {"statues", "benches", "murals", "signs", "lamps", "fountains", "gates", "clocks", "mailboxes", "graves", "swings", "pillars"},
     {"hammers", "spray"}, "destructive", "protect things all of us share"},
    {"hacking", {"hack", "breach", "crash"},
     {"servers", "networks", "websites", "accounts", "routers", "databases", "inboxes", "sensors", "modems", "firewalls", "portals", "tablets"},
     {"malware", "exploits"}, "criminal", "guard secret data well"},
};

const WorldCategory world_benign[WORLD_CATEGORIES] = {
    {"cook", {"cook", "bake", "fry"},
     {"bread", "soup", "rice", "cakes", "eggs", "pies", "noodles", "pancakes", "muffins", "stew", "pasta", "onions"},
     {"pan", "oven"}, NULL, NULL},
    {"garden", {"plant", "grow", "water"},
     {"roses", "beans", "trees", "corn", "grass", "herbs", "tulips", "peppers", "vines", "ferns", "daisies", "melons"},
     {"soil", "seeds"}, NULL, NULL},
    {"clean", {"clean", "wash", "scrub"},
     {"floors", "windows", "plates", "shirts", "shoes", "walls", "sinks", "tiles", "towels", "spoons", "curtains", "kettles"},
     {"soap", "sponge"}, NULL, NULL},
    {"craft", {"draw", "paint", "sketch"},
     {"boats", "faces", "toys", "masks", "stars", "maps", "puppets", "vases", "beads", "ornaments", "kites", "spirals"},
     {"brush", "crayons"}, NULL, NULL},
    {"music", {"play", "hum", "record"},
     {"songs", "waltzes", "tunes", "hymns", "ballads", "scales", "chords", "jingles", "carols", "anthems", "melodies", "marches"},
     {"piano", "flute"}, NULL, NULL},
    {"sewing", {"sew", "knit", "mend"},
     {"scarves", "socks", "hats", "quilts", "dresses", "mittens", "sweaters", "jackets", "pillows", "blankets", "skirts", "aprons"},
     {"needle", "yarn"}, NULL, NULL},
    {"woodwork", {"build", "repair", "polish"},
     {"chairs", "tables", "shelves", "desks", "beds", "cabinets", "doors", "stools", "crates", "ladders", "drawers", "racks"},
     {"saw", "nails"}, NULL, NULL},
    {"reading", {"read", "study", "translate"},
     {"poems", "novels", "stories", "riddles", "fables", "speeches", "diaries", "legends", "proverbs", "memoirs", "biographies", "sonnets"},
     {"dictionary", "pencil"}, NULL, NULL},
};

const char *const world_step[WORLD_STEPS] = {"set", "hold", "turn", "move"};

const WorldPrinciple world_neutral[WORLD_NEUTRAL] = {
    {"meals", "serve warm meals"}, {"colors", "love bright colors"},
    {"evenings", "enjoy quiet evenings"}, {"languages", "speak many languages"},
};
// clang-format on
