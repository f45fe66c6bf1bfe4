//! The words that the made-up shop is made of.

/// Top categories and what is under them.
pub(super) const CATEGORIES: &[(&str, &[&str])] = &[
    (
        "Garden",
        &["Tools", "Plants", "Furniture", "Watering", "Lights"],
    ),
    (
        "Kitchen",
        &["Cookware", "Knives", "Storage", "Tableware", "Baking"],
    ),
    (
        "Home",
        &["Lamps", "Textiles", "Shelves", "Decoration", "Cleaning"],
    ),
    ("Office", &["Paper", "Pens", "Desks", "Chairs", "Sorting"]),
    (
        "Outdoor",
        &["Tents", "Backpacks", "Bottles", "Clothing", "Maps"],
    ),
    (
        "Sports",
        &["Balls", "Fitness", "Cycling", "Swimming", "Winter"],
    ),
    ("Toys", &["Puzzles", "Building", "Dolls", "Games", "Crafts"]),
    ("Pets", &["Dogs", "Cats", "Fish", "Birds", "Rodents"]),
];
/// How many categories are under the top ones; products are in these only.
pub(super) const LEAVES: i64 = 40;

pub(super) const FIRST: &[&str] = &[
    "Ada", "Bo", "Clara", "Dmitri", "Elif", "Femi", "Grete", "Hugo", "Ines", "Jonas", "Karin",
    "Liam", "Mira", "Noor", "Olga", "Pavel", "Quentin", "Rosa", "Søren", "Tove", "Uma", "Viktor",
    "Wanda", "Xenia", "Yusuf", "Zoë",
];
pub(super) const LAST: &[&str] = &[
    "Almeida",
    "Berg",
    "Castro",
    "Dahl",
    "Eriksen",
    "Fischer",
    "Garcia",
    "Horvat",
    "Ivanov",
    "Jansen",
    "Kowalska",
    "Lindqvist",
    "Müller",
    "Nowak",
    "O'Neill",
    "Petrov",
    "Quist",
    "Rossi",
    "Schmidt",
    "Tanaka",
    "Ueda",
    "Varga",
    "Weiss",
    "Young",
    "Zimmer",
    "Öztürk",
];
pub(super) const CITIES: &[&str] = &[
    "Aarhus", "Bergen", "Gdańsk", "Graz", "Kraków", "Lyon", "Malmö", "Porto", "Turin", "Zürich",
];
pub(super) const ADJECTIVES: &[&str] = &[
    "Sturdy",
    "Light",
    "Compact",
    "Large",
    "Folding",
    "Classic",
    "Modern",
    "Quiet",
    "Bright",
    "Handmade",
    "Robust",
    "Soft",
    "Slim",
    "Portable",
    "Weatherproof",
    "Everyday",
];
pub(super) const MATERIALS: &[&str] = &[
    "Oak",
    "Steel",
    "Linen",
    "Copper",
    "Bamboo",
    "Glass",
    "Cotton",
    "Ceramic",
    "Leather",
    "Cork",
    "Wool",
    "Aluminium",
    "Beech",
    "Canvas",
];
pub(super) const NOUNS: &[&str] = &[
    "Chair", "Lamp", "Kettle", "Shelf", "Bottle", "Basket", "Blanket", "Hammer", "Bowl", "Clock",
    "Tent", "Backpack", "Puzzle", "Ball", "Leash", "Notebook", "Pan", "Bench", "Mirror", "Planter",
];
pub(super) const TAGS: &[&str] = &[
    "new",
    "sale",
    "eco",
    "gift",
    "local",
    "bulky",
    "fragile",
    "bestseller",
    "limited",
    "refill",
];
pub(super) const PRAISE: &[&str] = &[
    "Made to last for many years.",
    "Easy to clean, easy to store.",
    "Our most wanted one since spring.",
    "Comes with everything that is needed.",
    "Packed without plastic.",
    "Fits in any corner – even a small one.",
];
pub(super) const BLAME: &[&str] = &[
    "Delivery took a week.",
    "The colour is a bit darker than shown.",
    "Would buy it again.",
    "The manual is hard to read.",
    "My neighbour wants one too.",
    "The box was dented, the thing was not.",
];
pub(super) const TITLES: &[&str] = &[
    "Very good",
    "Just right",
    "Not bad",
    "Could be better",
    "Love it",
    "As expected",
    "A bit small",
    "Great value",
];
pub(super) const REPLIES: &[&str] = &[
    "Thank you for your kind words.",
    "We are sorry, please write to us.",
    "Noted, the next batch will be better.",
];
pub(super) const NOTES: &[&str] = &[
    "Please ring twice",
    "Leave it with the neighbour",
    "Gift wrap, please",
];
pub(super) const CARRIERS: &[&str] = &["PostNord", "DHL", "GLS"];
/// Text that breaks careless code: markup, quotes, signs beyond ASCII, percent and underscore.
pub(super) const AWKWARD: &[&str] = &[
    "<script>alert('shop')</script>",
    "\"Quoted\" & Co.",
    "100%_pure",
    "Crème brûlée 🍮",
    "O'Reilly; DROP TABLE--",
    "日本製",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leaves_are_counted_right() {
        let leaves: usize = CATEGORIES.iter().map(|(_, names)| names.len()).sum();
        assert_eq!(i64::try_from(leaves), Ok(LEAVES));
    }
}
