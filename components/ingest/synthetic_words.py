"""Names and sentence patterns of the synthetic NER data, own wording throughout.

Every pool is cut into disjoint parts, one a split, by `synthetic.part`; patterns are disjoint as
written. In a pattern ``[PER]`` is replaced by a name of that type, ``(a|b|)`` by one of its
alternatives; each blank separates two words.
"""


def _words(text: str) -> list[str]:
    return text.split()


FIRST_NAMES = _words(
    """
    Adela Ahmed Aisha Alan Alma Amara Amir Ana Andre Anita Anton Aria Arjun Astrid Ben Bianca
    Bram Brigit Bruno Camille Carla Cedric Chiara Chen Clara Colin Dana Darius Dee Delia
    Dimitri Dora Edgar Eileen Elif Elise Emeka Emil Enzo Esra Ethel Farah Fatima Felix Fergus
    Fiona Franz Freya Gemma Gita Greta Gustav Hamid Hana Hanne Hector Helga Hiro Ida Igor
    Imran Ines Ingrid Irina Isaac Ivan Jana Jasper Joao Jonas Jorge Josef Kamal Karin Katya
    Kemal Kofi Lars Laszlo Layla Leila Leo Lena Lin Lotte Luca Lucia Mads Magda Malik Marco
    Mateo Maya Mei Mila Milan Mina Nadia Naomi Nia Nils Noor Odette Olga Omar Oskar Paula
    Pedro Petra Pilar Priya Quentin Rafael Raj Rana Ravi Renata Rita Rosa Ruben Sana Sanjay
    Selma Sergei Signe Silvia Simone Sofia Stefan Sunil Tamar Tariq Theo Tomas Ulla Uma
    Valentin Vera Viktor Wanda Wei Xavier Yara Yuki Yusuf Zainab Zoran Zoe
    """
)

SURNAMES = _words(
    """
    Abara Adler Aguilar Almeida Andersen Aoki Arslan Bakker Banerjee Barros Becker Bello
    Bianchi Borges Brandt Bukowska Castillo Chaudhry Costa Cruz Dahl Danso Das Delgado Demir
    Diaz Dubois Eklund Eriksen Fagan Farouk Ferrari Fischer Fontaine Fujita Garcia Gomes
    Gruber Gupta Haddad Hagen Halvorsen Hassan Herrera Hoang Horvat Huang Ibrahim Ito Ivanova
    Jansen Jimenez Kapoor Karlsson Kato Keane Khan Kimura Kovacs Kowalski Kumar Larsen Lehmann
    Leroy Lindqvist Lopez Mancini Martins Mbeki Mehta Meyer Molnar Moreau Mueller Nakamura
    Navarro Nguyen Nielsen Novak Nwosu Oduya Okafor Olsen Osman Ozturk Park Patel Pereira
    Petrov Popescu Qureshi Ramos Rao Reyes Ricci Rossi Saito Salazar Santos Sato Schmidt
    Sharma Silva Singh Sorensen Suzuki Takeda Tanaka Torres Traore Ueda Vargas Varga Vasquez
    Virtanen Wagner Wallin Weber Wójcik Yamada Yildiz Zanetti Zhang Zimmer
    """
)

CITIES = _words(
    """
    Aarhus Accra Adelaide Antwerp Baku Bergen Bilbao Bogota Bologna Bordeaux Brno Busan
    Cardiff Cork Curitiba Dakar Delft Dresden Dublin Durban Fez Galway Gdansk Geneva Ghent
    Glasgow Graz Haifa Hanoi Izmir Jakarta Kampala Kazan Kigali Kobe Krakow Kyoto Lagos
    Leipzig Lille Lima Linz Lisbon Ljubljana Lodz Lyon Malaga Malmo Manila Medellin Mumbai
    Nairobi Nantes Odense Osaka Oslo Padua Perth Porto Pune Quito Rabat Riga Rosario Salzburg
    Sapporo Seville Skopje Sofia Split Tallinn Tampere Tbilisi Trieste Tunis Turin Turku
    Utrecht Valencia Varna Vienna Vilnius Warsaw Wroclaw Yerevan Zagreb Zurich
    """
)

# Person, place, company or product: only the sentence tells.
AMBIGUOUS = _words(
    """
    Jordan Chelsea Ford Paris Austin Lincoln Hudson Sydney Florence Virginia Georgia Madison
    Orlando Dallas Kent Phoenix Houston Chester Wells Carter Morgan Stanley Barclay Brooklyn
    Carolina Savannah Victoria Alexandria Cheyenne Denver Devon Logan Regina Santiago Salvador
    Hamilton Wellington Nelson Washington Jackson Cleveland Raleigh Bentley Mercedes Tesla
    Chevrolet Dell Hyatt Marriott Disney Siemens Bosch Philips Benz Porsche Ferris Lance Heinz
    Kellogg Wendy Lacoste Prada Armani Levi Dyson Hilton Lexington Kingston Preston Ashton
    Clifton Bradford Stafford Lancaster Warwick Winchester
    """
)

# Common words that are written like names; these stay outside any entity.
DECOYS = _words(
    """
    apple amber rose mark will may june april bill frank grace hope faith joy pat rob sue jack
    drew jaguar mustang shell target gap oracle windows pages word galaxy orange blackberry
    java chase
    """
)

ONSETS = _words(
    """
    Bal Bren Cald Cor Dar Dren El Fal Fen Gal Gren Hal Hest Ir Jor Kel Kor Lan Lor Mar Mel Mor
    Nar Nor Or Pel Quen Ral Ros Sal Sel Tal Tor Ul Var Ven Wes Wil Yor Zan Zel Ast Bryn Cray
    Dun Esk Garn Holm Lyd Myr Nesk Ost Pry Rud Stol Trev Urs Vosk Wex
    """
)

PLACE_ENDS = _words(
    "burg dale field ford gate ham haven mere minster mouth stead ton ville vik wick"
)
PLACE_LEADS = _words("North South East West Upper Lower New Old Port Lake Mount Saint Fort")
COMPANY_ENDS = _words("ana ara ea eon era exa ia ica ido ify ion ius ix ora os ova ulo um ura yx")
COMPANY_TAILS = _words(
    """
    Labs Systems Group Bank Foundation Institute Airlines Motors Energy Records Press Media
    Partners Pharma Robotics Insurance Foods Studios Union Council
    """
)
PRODUCT_ENDS = _words(
    "bit book box cast deck flow go kit let pad phone pod sense tab time view watch"
)
PRODUCT_TAILS = _words("Pro Mini Max Air Plus X Lite Ultra 2 3 5 7 9 10 12 40 200 700")
PATTERNS = {
    "train": """
[PER] (joined|left) [ORG] (last year|in March|after the merger) .
[PER] , who (grew up|was born) in [LOC] , (now|still) works for [ORG] .
The (new|latest) [PRO] from [ORG] (costs|sells for) 300 euros .
I (flew|drove|walked) from [LOC] to [LOC] (yesterday|on Monday|) .
[ORG] opened an office in [LOC] (this week|) .
My [PRO] (broke|stopped working) after two days .
(Doctors|Officials|Reporters) in [LOC] said the road was closed .
[PER] told [PER] that the train to [LOC] was late .
Shares of [ORG] fell 4 percent on (Tuesday|Friday) .
We had dinner with [PER] and [PER] in [LOC] .
Has anyone tried the [PRO] (yet|with the new update) ?
The mayor of [LOC] , [PER] , resigned .
[ORG] hired [PER] as its (chief economist|head of design|lawyer) .
[PER] bought a used [PRO] for his daughter .
It rained all day in [LOC] .
"We are not selling , " said [PER] , a spokesman for [ORG] .
[ORG] will buy [ORG] for two billion dollars .
The battery of the [PRO] lasts longer than the one in the [PRO] .
[PER] (won|lost) the final against [PER] (in [LOC]|) .
Flights to [LOC] were cancelled because of (fog|snow|a strike) .
Professor [PER] teaches (history|chemistry) in [LOC] .
Nobody at [ORG] answered the phone .
The river that runs through [LOC] froze in January .
[PER] 's brother lives near [LOC] .
They traded their [PRO] for a [PRO] .
Workers at the [ORG] plant outside [LOC] went on strike .
[PER] asked for a refund because the [PRO] never arrived .
(Police|Rescue teams) searched the hills above [LOC] for two hikers .
[ORG] sued [ORG] over a patent .
Yesterday [PER] signed a contract with [ORG] .
The (museum|library|harbour) in [LOC] is closed on Mondays .
(She|He) said [PER] had already paid .
Dear [PER] , your order of one [PRO] has been shipped .
The (film|book|song) made [PER] famous (overnight|) .
Customers of [ORG] complained about hidden fees .
[LOC] and [LOC] are two hours apart by train .
[PER] scored twice before half time .
Is [PER] (coming|going) to the party in [LOC] ?
The committee thanked [PER] for her work at [ORG] .
An [ORG] spokeswoman declined to comment .
The [PRO] has a better camera than my old phone .
(Farmers|Students) from [LOC] marched through the capital .
I (love|hate) the sound of my [PRO] .
[ORG] donated ten computers to a school in [LOC] .
[PER] moved to [LOC] when (she|he) was nine .
A bus from [LOC] crashed into a wall .
[ORG] recalled every [PRO] sold before May .
Please call [PER] about the lease .
Investors trust [ORG] more than [ORG] .
The weather in [LOC] was (mild|awful) , so [PER] stayed home .
You can run it on a [PRO] without any trouble .
Before the war , [LOC] had a large market .
[PER] , [PER] and [PER] share a flat .
The king visited [LOC] with [PER] .
Analysts expect [ORG] to cut prices .
He repaired the screen of my [PRO] in an hour .
The <decoy> was on the table .
(They|We) (ate|sold) the <decoy> in the morning .
There is a picture of a <decoy> on the wall .
I do not know what to do about the <decoy> .
Nothing happened , and we went home early .
The meeting was moved to the afternoon .
Does anyone have a good recipe for soup ?
Prices rose by three percent last month .
""",
    "validation": """
(Yesterday|Today) the boss of [ORG] met [PER] for lunch .
Tourists are coming back to [LOC] .
[PER] wants to sell the house in [LOC] .
[ORG] makes more profit than it did when [PER] was in charge .
The screen on this [PRO] is (too dark|cracked) .
Have you ever been to [LOC] with [PER] ?
According to [PER] , [ORG] paid no tax .
I ordered a [PRO] but they sent me a [PRO] .
Two men from [LOC] were arrested .
After ten years with [ORG] , [PER] retired .
A storm hit the coast near [LOC] .
The review of the [PRO] was written by [PER] .
[ORG] closed its factory in [LOC] .
[PER] married [PER] in the spring .
It was only a <decoy> , nothing more .
She wrote the word <decoy> on the board .
Tickets go on sale next week .
My neighbour paints the fence every year .
A lawyer for [PER] said the trial would begin in [LOC] .
Both [ORG] and [ORG] want the contract .
""",
    "test": """
just saw [PER] at the airport in [LOC] lol
Anyone else having problems with the [PRO] since the update ?
Last night in [LOC] a crowd waited for [PER] until dawn .
Rumour has it that [ORG] is about to be taken over by [ORG] .
(Honestly|Frankly) my [PRO] is the best thing I own .
[PER] used to be an engineer at [ORG] before (she|he) turned to politics .
The bridge connecting [LOC] with [LOC] reopens tomorrow .
Thanks to [PER] we got our money back from [ORG] .
What a goal by [PER] !
They shipped my [PRO] to [LOC] by mistake .
The court ordered [ORG] to compensate [PER] .
Population figures for [LOC] have doubled since the nineties .
As a child [PER] dreamt of leaving [LOC] .
Should I get the [PRO] or wait for the [PRO] ?
[ORG] reported a loss for the third quarter .
During the interview [PER] called [PER] a liar .
A fire destroyed the old theatre in [LOC] .
Thousands of jobs at [ORG] are at risk , warns the union .
Speaking to journalists , [PER] refused to rule out new elections .
We spent our honeymoon in [LOC] .
My sister unpacked her [PRO] and could not find the charger .
The chairman of [ORG] , [PER] , sold all his shares .
An earthquake shook [LOC] shortly after midnight .
Half of the staff left [ORG] within a year .
"No idea , " replied [PER] .
Turn your [PRO] off and on again .
Wine from the region around [LOC] is getting expensive .
A letter from [PER] to [PER] was found in the attic .
[ORG] and the city of [LOC] disagree about the rent .
With the [PRO] you can record for nine hours .
Why would [PER] go back to [LOC] in winter ?
the <decoy> is broken again , any ideas ?
(Someone|Nobody) mentioned the <decoy> to me .
What time does the shop open ?
Better late than never , I guess .
""",
}

# Put before or after a pattern now and then; also cut into disjoint parts by split.
LEADS = [
    "As everyone knows ,",
    "By the way ,",
    "For the record ,",
    "In the end ,",
    "It turns out that",
    "I heard that",
    "Sadly ,",
    "Breaking :",
    "Update :",
    "According to the morning paper ,",
    "For some reason",
    "On the bright side ,",
    "If I remember correctly ,",
    "Not a joke :",
    "To nobody 's surprise ,",
    "Guess what :",
]
TAILS = [
    ", a witness said .",
    ", which is a pity .",
    ", and that was that .",
    ", as far as we know .",
    ", at least for now .",
    ", the paper wrote .",
    "( see the link below ) .",
    ", can you believe it ?",
    ", more soon .",
    "- what a day !",
    ", if you ask me .",
    ", they claim .",
]
