"""The words and phrases of the synthetic corpus.

`WORDS` lists plain words by kind, separated by white space; an underscore stands for the space inside a term
("ice_cream"). `PHRASES` builds numbers, times, dates, noun phrases and the like from them, in the template language
of `grammar`.

Every word is spelled and pronounced in one way only: no heteronyms (read, lead, wind), no words that British and
American English spell differently (colour, theatre), and of two words that sound the same (sun and son, right and
write) only one, except for a few that their neighbours tell apart (two and to, four and for, by and buy).
"""

from __future__ import annotations

from typing import Final

__all__ = ["IRREGULAR_PLURALS", "PHRASES", "WORDS"]

WORDS: Final[dict[str, str]] = {
    # Numbers and the calendar.
    "digit": "one two three four five six seven eight nine",
    "teen": "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen",
    "tens": "twenty thirty forty fifty sixty seventy eighty ninety",
    "ordinal_small": "first second third fourth fifth sixth seventh eighth ninth",
    "ordinal_teen": """tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth
        nineteenth twentieth thirtieth""",
    "weekday": "monday tuesday wednesday thursday friday saturday sunday",
    "month": "january february march april may june july august september october november december",
    "season": "spring summer autumn winter",
    "hour": "one two three four five six seven eight nine ten eleven twelve",
    "letter": "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    # People.
    "first_name": """adam alice amanda andrew angela anna anthony arthur barbara benjamin carlos carol charles
        charlotte christopher clara daniel david deborah diana dorothy edward elena elizabeth emily emma ethan felix
        florence frederick gabriel george hannah harold helen henry isabella jacob james jasmine jennifer jessica
        joanna john joseph joshua julia karen kevin laura leonard linda louis lucas lucy margaret maria martin
        matthew melissa michael michelle monica natalie nathan nicholas nina oliver olivia oscar pamela patricia
        patrick paul peter philip rachel rebecca richard robert rosa ruth samuel sandra sarah simon sophia stella
        susan theodore thomas tony valerie vanessa victor vincent virginia walter william zoe""",
    "surname": """anderson bailey bennett campbell carter collins davis edwards evans foster garcia graham griffin
        hamilton harrison hughes jackson jenkins johnson kennedy lawrence lopez marshall martinez miller mitchell
        morgan murphy nelson parker patterson peterson ramirez richardson robinson sanders simmons sullivan taylor
        thompson turner walker watson wilson""",
    "relative": """mother father brother sister cousin uncle aunt grandmother grandfather nephew niece husband wife
        daughter""",
    "professional": """doctor dentist teacher manager landlord plumber electrician lawyer accountant coach nurse
        assistant boss babysitter mechanic gardener roommate secretary professor hairdresser""",
    "person": """artist baker captain carpenter farmer driver painter singer dancer sailor soldier student tourist
        pilot scientist detective magician musician poet queen king wizard stranger child girl boy woman visitor
        shepherd butcher judge chef waiter librarian reporter photographer engineer architect astronaut firefighter
        guard clown inventor merchant actor swimmer author""",
    # Places.
    "city": """london paris berlin madrid vienna dublin lisbon athens moscow chicago boston denver seattle dallas
        houston atlanta phoenix miami orlando toronto montreal vancouver sydney melbourne tokyo beijing delhi mumbai
        cairo nairobi singapore amsterdam brussels copenhagen stockholm oslo helsinki warsaw prague budapest zurich
        geneva milan venice naples barcelona munich hamburg edinburgh glasgow manchester liverpool oxford cambridge
        philadelphia portland detroit nashville memphis baltimore pittsburgh cleveland istanbul bangkok manila havana
        san_francisco new_york los_angeles las_vegas mexico_city cape_town hong_kong""",
    "country": """france germany spain italy portugal turkey poland sweden norway denmark finland ireland scotland
        england canada mexico brazil argentina peru egypt kenya morocco nigeria india japan china korea thailand
        vietnam australia new_zealand switzerland austria iceland indonesia pakistan""",
    "language": """french german spanish italian portuguese turkish swedish russian japanese chinese korean arabic
        english dutch danish""",
    "place": """airport bakery bank beach bookstore bridge castle cathedral church cinema cottage farm factory forest
        gallery gym hospital hotel island lake lighthouse market meadow museum palace park pharmacy playground pond
        post_office restaurant river school stadium station supermarket temple tower tunnel university valley village
        warehouse waterfall windmill zoo embassy laboratory aquarium courthouse cemetery vineyard orchard""",
    "street_name": "main church park mill station bridge oak maple cedar chestnut lincoln washington hillside sunset",
    "street_kind": "street avenue lane drive boulevard",
    "room": """kitchen bedroom bathroom living_room dining_room hallway garage basement attic office nursery balcony
        patio porch library studio laundry_room""",
    # The home.
    "switch": """lights lamp fan heater television speaker oven dishwasher vacuum fireplace sprinkler radio projector
        dryer humidifier coffee_maker washing_machine alarm_system air_conditioning""",
    "opening": "curtains blinds shutters windows doors gate",
    "paint": "red blue green yellow orange purple pink white black brown silver golden turquoise violet",
    # Music and media.
    "genre": """jazz rock pop classical country folk blues reggae disco soul opera techno gospel punk salsa swing
        hip_hop heavy_metal electronic acoustic""",
    "instrument": "piano guitar violin cello flute trumpet saxophone clarinet harp banjo trombone drums",
    "mood": "relaxing romantic cheerful energetic peaceful quiet happy gloomy dramatic festive",
    "programme": "comedy documentary cartoon thriller podcast audiobook concert musical western mystery",
    "topic": """politics economy technology science health business sports environment education election government
        parliament climate energy traffic fashion medicine agriculture space""",
    # The weather.
    "sky": "sunny rainy cloudy foggy snowy stormy warm cool freezing humid dry windy",
    "precipitation": "rain snow hail fog drizzle thunder lightning frost sunshine",
    # Food and shopping.
    "grocery": """apples bananas oranges lemons grapes peaches strawberries blueberries raspberries cherries pineapple
        mango melon tomatoes potatoes onions carrots broccoli spinach lettuce cabbage celery cucumber mushrooms
        peppers garlic ginger pumpkin corn rice pasta noodles bread butter milk cheese cream eggs bacon ham sausages
        chicken beef pork lamb salmon tuna shrimp honey sugar salt vinegar mustard ketchup mayonnaise olive_oil coffee
        tea juice lemonade water soda cookies crackers popcorn chocolate cereal bagels muffins almonds peanuts walnuts
        raisins tofu cinnamon vanilla oatmeal syrup jam parsley oregano ice_cream""",
    "household": """toilet_paper paper_towels toothpaste shampoo soap detergent sponges light_bulbs batteries candles
        napkins tissues trash_bags dog_food stamps flowers sunscreen""",
    "container": "bag box bottle jar can packet carton basket crate",
    "dish": """pizza risotto curry salad stew burger burrito pancake dumpling sushi taco casserole sandwich pudding pie
        cake cheesecake brownie spaghetti soup waffle dessert""",
    "cook": "bake boil chop fry grill mash melt mix peel roast simmer slice stir whisk steam",
    # Days.
    "event": """meeting appointment interview conference dinner lunch breakfast birthday_party wedding concert
        rehearsal workshop lecture exam picnic anniversary yoga_class piano_lesson book_club haircut checkup seminar
        deadline barbecue""",
    "bill": "rent electricity phone insurance internet gas credit_card",
    "pet": "cat dog hamster rabbit parrot puppy kitten goldfish",
    "vehicle": "train bus taxi ferry subway rental_car helicopter tram shuttle",
    "sport": "football basketball baseball tennis hockey golf soccer volleyball rugby cricket boxing swimming",
    "team": "tigers lions eagles panthers rangers dragons falcons sharks giants pirates rockets bulls",
    # Open classes for dictated sentences.
    "object": """basket bottle bicycle blanket book bracelet bucket button cabinet calendar camera candle canvas carpet
        chair clock coat compass couch crystal cupboard curtain cushion desk diamond dictionary drawer dress envelope
        fence feather flag fork frame glove hammer handle hat helmet jacket kettle keyboard ladder lantern laptop
        letter magazine magnet mailbox map mask mattress mirror motorcycle necklace needle notebook package painting
        parcel pencil pillow plate pocket poster puppet puzzle quilt rope ribbon rocket ruler saddle scarf shelf shirt
        shovel skateboard sofa statue suitcase sweater sword table tablet teapot telephone telescope ticket towel
        tractor tray truck umbrella wagon wallet whistle barrel trophy anchor helicopter ambulance spoon kite
        parachute carriage postcard photograph""",
    "animal": """cat dog horse elephant giraffe tiger lion monkey rabbit squirrel fox wolf dolphin penguin parrot eagle
        owl pigeon duck goose turtle snake lizard frog spider butterfly beetle donkey camel kangaroo panda zebra
        leopard puppy kitten hamster sheep goat cow pony octopus swan""",
    "nature": """moon ocean sky cloud hill cave cliff jungle swamp volcano glacier canyon shadow sunset sunrise storm
        rainbow breeze flame""",
    "idea": """idea story secret problem question answer reason promise memory dream chance decision mistake adventure
        journey lesson message moment opportunity argument suggestion surprise discovery victory agreement schedule
        explanation proposal experiment tradition habit plan budget report invitation speech""",
    "adjective": """ancient angry awkward beautiful big bitter brave bright broken calm careful cheap clean clever
        clumsy cold comfortable common cruel curious dangerous dark deep delicate different difficult dusty elegant
        empty enormous expensive famous fancy fast fierce foolish fragile fresh friendly funny gentle giant graceful
        grumpy handsome heavy helpful hollow honest huge hungry important incredible innocent jealous jolly lazy little
        lonely long loud lovely lucky magnificent massive modern muddy mysterious narrow nervous noisy old ordinary
        patient playful polite popular powerful precious pretty proud quick rare rough round royal rusty scary serious
        shallow sharp shiny short silent simple sleepy slow small smooth soft special square steep sticky strange
        strong stubborn sudden tall tame tasty terrible thick thin tiny tired tough tropical ugly unusual useful vast
        wealthy wet wild wise wonderful wooden young""",
    "did": """admired borrowed bought built carried chased cleaned collected copied covered decorated delivered
        described designed discovered dropped enjoyed examined explored followed forgot found fixed guarded hated
        helped hid ignored imagined invented kept kicked lifted lost loved measured mentioned moved noticed opened
        ordered packed painted picked protected pulled pushed refused remembered repaired replaced rescued shared sold
        studied touched trusted visited wanted washed watched""",
    "acted": """arrived appeared collapsed danced disappeared escaped fell floated giggled hesitated jumped landed
        laughed listened marched rested returned sang screamed shivered shouted slept slipped smiled sneezed stopped
        stumbled swam talked trembled vanished waited walked wandered whispered worked yawned""",
    "adverb": """quickly slowly quietly loudly carefully suddenly happily sadly gently bravely eagerly finally
        nervously patiently politely secretly silently softly badly easily proudly""",
    "when": "yesterday recently again twice once before afterwards",
    "preposition": """above across against along around behind below beneath beside beyond inside near outside over
        through under underneath without opposite with from""",
}

IRREGULAR_PLURALS: Final[dict[str, str]] = {
    "child": "children",
    "goose": "geese",
    "scarf": "scarves",
    "sheep": "sheep",
    "shelf": "shelves",
    "wolf": "wolves",
    "woman": "women",
}

PHRASES: Final[dict[str, str]] = {
    # Numbers, prices, times and dates.
    "two_digits": "{teen}|{tens}|{tens} {digit}|{tens} {digit}",
    "number": "{digit}|{two_digits}|{two_digits}",
    "large_number": """{digit} hundred|{digit} hundred and {two_digits}|{number} thousand|
        {number} thousand {digit} hundred""",
    "any_number": "{number}|{large_number}",
    "few": "two|three|four|five|six|seven|eight|nine|ten|twelve",
    "percent": "{two_digits} percent|one hundred percent",
    "phone_digit": "zero|{digit}|{digit}|{digit}|{digit}|{digit}",
    "three_digits": "{phone_digit} {phone_digit} {phone_digit}",
    "phone_number": "{three_digits} {phone_digit} {three_digits}|{three_digits} {three_digits} {three_digits}",
    "price": "{number} (dollars|euros|pounds)|{large_number} (dollars|euros)|{number} dollars and {two_digits} cents",
    "minutes": "five|ten|fifteen|twenty|twenty five|thirty|thirty five|forty|forty five|fifty|fifty five",
    "clock": """{hour} o'clock|{hour} {minutes}|{hour} {minutes}|{hour} {minutes}|half past {hour}|
        quarter (past|to) {hour}|(noon|midnight)""",
    "half_day": "(a m|p m|in the morning|in the afternoon|in the evening|at night)",
    "time": "{clock}|{hour} {minutes} {half_day}|{hour} {half_day}",
    "duration": "{number} minutes|{number} (minutes|seconds)|{few} hours|one hour and {number} minutes|half an hour",
    "ordinal": "{ordinal_small}|{ordinal_teen}|{ordinal_teen}|twenty {ordinal_small}",
    "date": "the {ordinal} of {month}|{month} {ordinal}|{month} the {ordinal}",
    "year": "nineteen {two_digits}|twenty {two_digits}|two thousand and {number}|eighteen {two_digits}",
    "day_part": "morning|afternoon|evening|night",
    "on_day": """today|tomorrow|tomorrow {day_part}|on {weekday}|on {weekday} {day_part}|next {weekday}|on {date}|
        next week""",
    "week_part": "day|night|week|weekday|weekend|{weekday}|{weekday}|month",
    # People and places.
    "name": "{first_name}|{first_name}|{first_name}|{first_name} {surname}",
    "formal": "(mister|doctor|professor) {surname}",
    "contact": "{name}|{name}|{formal}|my {relative}|my {professional}|the {professional}",
    "address": "{two_digits} {street_name} {street_kind}|{digit} hundred {street_name} {street_kind}",
    "where_to": "the {place}|the nearest {place}|{city}|{address}|the {place} in {city}|my {relative} in {city}",
    # Things.
    "shopping": "{grocery}|{grocery}|{household}|a {container} of {grocery}|{few} {container+s} of {grocery}",
    "thing": "{object}|{object}|{animal}|{animal}|{person}|{place}|{idea}|{idea}|{nature}",
    "described": "{adjective} ({object}|{object}|{animal}|{person}|{idea}|{idea})",
    "setting": "the {place}|the {adjective} {place}|the {nature}|the {room}|the {adjective} {object}",
    "being": "{person}|{person}|{animal}|{professional}|{relative}",
    "spelled": "|".join(
        f"{name} {' '.join(name)}"
        for kind in ("first_name", "surname")
        for name in WORDS[kind].split()
        if len(name) <= 8
    ),
    "title": "{adjective} {thing}|{paint} {thing}|the {adjective} {thing}|the {thing} in {city}",
    "errand": """call {contact}|feed the {pet}|pay the {bill} bill|buy {shopping}|pick up {shopping}|clean the {room}|
        return the {object} to {contact}|book @ {vehicle} to {city}|take out the trash|fix the {adjective} {object}|
        tune the {instrument}|go to the {place}|order {shopping}|study {language}|
        (wash|count|sell) the {object+s}""",
    "statement": """i (will|might) be {number} minutes late|the {event} is {on_day}|meet me at the {place} at {clock}|
        i found the {adjective} {object}|please bring {shopping}|i am waiting (near|inside|behind) the {place}|
        {name} wants to see you {on_day}|thank you for the {described}|happy birthday from {name}|
        the {object} is in the {room}""",
}
